"""What is trained on is what the assistant says and what ends it: token by token, in every tokenizer and template."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from multimodal.chat import ChatEncoder, Encoded, collate
from multimodal.documents import Sample, Turn, parse_sample
from multimodal.images import ImageFile
from rmt.errors import InputError
from tests.multimodal.toys import CHATML, IMAGES_FIRST, KINDS, TEMPLATES, tokenizer

RUN = 3  # tokens of an image
PICTURES = [np.full((2, 2, 3), value, np.uint8) for value in range(8)]

# What somebody may say: also what looks like the template's words and special tokens, cut and whole.
tricky = st.sampled_from(
    ["<image>", "<ima", "ge>", "</s>", "<|im_end|>\n", "ASSISTANT:", "USER: ", "[SEP]", "<", "a", " ", "\n", "red one"]
)
texts = st.one_of(st.text(max_size=12), st.lists(tricky, max_size=5).map("".join), st.just(""))


@st.composite
def samples(draw, words=texts, system=True) -> Sample:
    turns = []
    if system and draw(st.booleans()):
        turns.append(Turn("system", (draw(words),)))
    for _ in range(draw(st.integers(1, 3))):
        pictures = st.integers(0, len(PICTURES) - 1).map(PICTURES.__getitem__)
        turns.append(Turn("user", tuple(draw(st.lists(st.one_of(words, pictures), max_size=4)))))
        turns.append(Turn("assistant", (draw(words),) if draw(st.booleans()) else (draw(words), draw(words))))
    return Sample("x", tuple(turns[: len(turns) - draw(st.integers(0, 1))]))


def written(sample: Sample, name: str) -> list[tuple[str | None, bool]]:
    """The naive twin of the layout: pieces of text and whether they are learned; None is an image."""
    out: list[tuple[str | None, bool]] = []
    if name == "stripping":
        out.append(("<s>", False))
    for turn in sample.turns:
        answer = turn.role == "assistant"
        head, end, tail = {
            "none": ("ASSISTANT:" if answer else "USER: ", "</s>" if answer else "", "" if answer else " "),
            "chatml": (f"<|im_start|>{turn.role}\n", "<|im_end|>", "\n"),
            "stripping": ("" if answer else f"[{turn.role}]", " </s>" if answer else "[/]", ""),
            "images first": (f"{turn.role.upper()}:" + " " * (not answer), "", " </s>" if answer else " "),
        }[name]
        if name == "images first" and answer:
            end, tail = " </s>", ""
        if name == "none" and turn.role == "system":
            head = ""
        # What a prompt for an answer does not end with has to be said by the model.
        out += [(head, False), (" " if answer and name != "chatml" else "", True)]
        said = [(part, answer) if isinstance(part, str) else (None, False) for part in turn.content]
        out += stripped(said) if name == "stripping" else said
        out += [(end, answer), (tail, False)]
    return out


def letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for: itself where printable, else from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(other)}


def stripped(said):
    texts = "".join(text or "" for text, _ in said)
    mark = next(chr(code) for code in range(0xF000, 0xF8FF) if chr(code) not in texts)
    whole = "".join(mark if text is None else text for text, _ in said).strip()
    learned = said[0][1] if said else False
    out = []
    for index, text in enumerate(whole.split(mark)):
        out += [(None, False)] * (index > 0) + [(text, learned)]
    return out


@pytest.mark.parametrize("kind", ["gpt2", "llama3"])
@pytest.mark.parametrize("name", TEMPLATES)
@given(sample=samples())
def test_bytes_and_labels_are_the_naive_twins(kind, name, sample):
    """Tokens are walked byte by byte, without the tokenizer's own account of characters."""
    if name == "images first":  # it writes what it knows of images itself: see below
        sample = Sample(
            "x", tuple(Turn(t.role, ("".join(p for p in t.content if isinstance(p, str)),)) for t in sample.turns)
        )
    got = ChatEncoder(tokenizer(kind), RUN, chat_template=TEMPLATES[name])(sample)
    check(got, kind, written(sample, name))
    assert len(got.images) == len(sample.images)
    assert all(a is b for a, b in zip(got.images, sample.images, strict=True))


def check(got: Encoded, kind: str, expected: list[tuple[str | None, bool]]) -> None:
    tok = tokenizer(kind)
    learned: list[bool] = []  # a byte each, or an image
    symbols: list[int] = []
    for text, trained in expected:
        data = [-1] if text is None else list(text.encode())
        symbols += data
        learned += [trained] * len(data)
    of_letter = letters()
    image = tok.convert_tokens_to_ids("<image>")
    at = index = 0
    while index < len(got.input_ids):
        token = got.input_ids[index]
        if token == image:
            assert got.input_ids[index : index + RUN] == [image] * RUN
            assert got.labels[index : index + RUN] == [-100] * RUN
            assert symbols[at] == -1
            at, index = at + 1, index + RUN
            continue
        word = tok.convert_ids_to_tokens(token)
        data = list(word.encode()) if token in tok.get_added_vocab().values() else [of_letter[c] for c in word]
        assert symbols[at : at + len(data)] == data
        # A character of several bytes counts as a whole: its bytes are all learned or none.
        assert got.labels[index] == (token if any(learned[at : at + len(data)]) else -100)
        at, index = at + len(data), index + 1
    assert at == len(symbols), "something is lost"


@pytest.mark.parametrize("kind", ["words", "minilm"])
@given(
    sample=samples(
        st.lists(st.sampled_from(["red", "Seven", "<image>", "[SEP]", "</s>", "blau,", "é"]), max_size=4).map(" ".join)
    )
)
def test_tokenizers_of_words_learn_the_answers(kind, sample):
    tok = tokenizer(kind)
    turns = tuple(Turn(t.role, t.content if t.role == "user" else t.content[:1]) for t in sample.turns)
    got = ChatEncoder(tok, RUN)(Sample("x", turns))
    expected = []
    for turn in turns:
        if turn.role == "assistant":
            plain = tok(turn.content[0], add_special_tokens=False, split_special_tokens=True)["input_ids"]
            expected += [*plain, tok.eos_token_id if tok.eos_token_id is not None else tok.sep_token_id]
    assert [label for label in got.labels if label != -100] == expected
    image = tok.convert_tokens_to_ids("<image>")
    assert got.input_ids.count(image) == RUN * len(got.images)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(sample=samples())
def test_every_tokenizer_keeps_images_and_reads_as_a_whole(kind, sample):
    tok = tokenizer(kind)
    got = ChatEncoder(tok, RUN)(sample)
    image = tok.convert_tokens_to_ids("<image>")
    assert got.input_ids.count(image) == RUN * len(sample.images)
    said = "".join(part for turn in sample.turns for part in turn.content if isinstance(part, str))
    if not any(word in said for word in tok.get_added_vocab()) and "<" not in said and "[" not in said:
        text = "".join("<image>" * RUN if part is None else part for part, _ in written(sample, "none"))
        text = text.replace("</s>", tok.eos_token or tok.sep_token)
        assert got.input_ids == tok(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", ["gpt2", "llama3"])
@pytest.mark.parametrize("template", [CHATML, None])
def test_agrees_with_the_generation_blocks_of_transformers(kind, template):
    from multimodal.templates import LLAVA_15

    tok = tokenizer(kind)
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What colour was it?"},
        {"role": "assistant", "content": "Green."},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "Blue, as it were."},
    ]
    theirs = tok.apply_chat_template(
        messages, chat_template=template or LLAVA_15, return_assistant_tokens_mask=True, return_dict=True
    )
    got = ChatEncoder(tok, RUN, chat_template=template)(parse_sample({"messages": messages}, Path()))
    assert got.input_ids == theirs["input_ids"]
    assert [int(label != -100) for label in got.labels] == theirs["assistant_masks"]


def test_a_template_that_knows_images_is_left_to_write_them():
    tok = tokenizer("gpt2")
    content = [{"type": "image", "path": "a.png"}, {"type": "text", "text": "What is it?"}]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "Red."}]},
    ]
    got = ChatEncoder(tok, RUN, chat_template=IMAGES_FIRST)(parse_sample({"messages": messages}, Path()))
    text = tok.apply_chat_template(messages, chat_template=IMAGES_FIRST, tokenize=False)
    assert text == "USER: <image>\nWhat is it? ASSISTANT: Red. </s>"
    assert got.input_ids == tok(text.replace("<image>", "<image>" * RUN), add_special_tokens=False)["input_ids"]
    # LLaVA's files write the line end themselves: there must not be two.
    record = {"image": "a.png", "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Red."}]}  # fmt: skip
    assert ChatEncoder(tok, RUN, chat_template=IMAGES_FIRST)(parse_sample(record, Path())).input_ids == got.input_ids


def test_order_is_kept_where_the_template_would_not():
    tok = tokenizer("gpt2")
    turns = (Turn("user", ("first ", PICTURES[0], " second ", PICTURES[1])), Turn("assistant", ("Red.",)))
    got = ChatEncoder(tok, 1, chat_template=IMAGES_FIRST)(Sample("x", turns))
    assert tok.decode(got.input_ids) == "USER: first <image> second <image> ASSISTANT: Red. </s>"


def test_asking_ends_with_the_beginning_of_an_answer():
    tok = tokenizer("gpt2")
    question, answer = Turn("user", (PICTURES[0], "\nWhat?")), Turn("assistant", ("Red.",))
    for template in (None, CHATML, IMAGES_FIRST):
        encoder = ChatEncoder(tok, RUN, chat_template=template)
        asked = encoder(Sample("x", (question,)), ask=True)
        taught = encoder(Sample("x", (question, answer)))
        assert asked.input_ids == taught.input_ids[: len(asked.input_ids)]
        assert set(asked.labels) == {-100}
        assert taught.labels[len(asked.input_ids)] != -100
    with pytest.raises(InputError, match="question last"):
        ChatEncoder(tok, RUN)(Sample("x", (question, answer)), ask=True)


# As the published folders of LLaVA-1.5 have it: nothing ends an answer.
LLAVA_HF = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ENDLESS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"


@pytest.mark.parametrize("kind", ["gpt2", "minilm"])
@pytest.mark.parametrize("template", [LLAVA_HF, ENDLESS])
def test_where_a_template_ends_no_answer_the_last_one_is_ended(template, kind):
    """LLaVA is trained to end its answers (2310.03744); a model that is not would lose it."""
    tok = tokenizer(kind)
    turns = (Turn("user", ("What?",)), Turn("assistant", ("Red.",)))
    again = (Turn("user", ("Now?",)), Turn("assistant", ("Blue.",)))
    encoder = ChatEncoder(tok, RUN, chat_template=template)
    got, end = encoder(Sample("x", turns + again)), tok.eos_token_id or tok.sep_token_id
    learned = [label for label in got.labels if label != -100]
    assert learned[-1] == got.input_ids[-1] == end
    assert learned.count(end) == got.input_ids.count(end) == 1
    assert tok.decode(learned[:-1]).lower().replace(" ", "").removesuffix(tok.eos_token or "") == "red.blue."
    asked = encoder(Sample("x", turns + again[:1]), ask=True)
    assert end not in asked.input_ids


def test_what_a_tokenizer_puts_in_front_is_there_once():
    """As transformers' processors encode a rendered conversation."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    tok = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer("gpt2").backend_tokenizer.to_str()),
        bos_token="<s>",
        eos_token="</s>",
    )
    tok.add_special_tokens({"additional_special_tokens": ["<image>"]})
    first = tok.bos_token_id
    tok.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", first)]
    )
    turns = (Turn("user", (PICTURES[0], "\nWhat?")), Turn("assistant", ("Red.",)))
    for template in (None, TEMPLATES["stripping"]):  # the second writes it itself
        got = ChatEncoder(tok, RUN, chat_template=template)(Sample("x", turns))
        assert got.input_ids[0] == first
        assert got.input_ids.count(first) == 1
        assert got.labels[0] == -100
        assert len(got.labels) == len(got.input_ids)
        asked = ChatEncoder(tok, RUN, chat_template=template)(Sample("x", turns[:1]), ask=True)
        assert asked.input_ids == got.input_ids[: len(asked.input_ids)]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}",
        "{% for m in messages | reverse %}{{ m['content'] }}{% endfor %}",
        "{{ messages[0]['content'] }}",
        "{{ raise_exception('no such roles') }}",
        "{{ messages }}",
    ],
)
def test_a_template_that_changes_what_is_said_is_an_error(template):
    turns = (Turn("user", ("what is it?",)), Turn("assistant", ("red",)))
    with pytest.raises(InputError, match=r"^file, index 3: chat template: expected"):
        ChatEncoder(tokenizer("gpt2"), RUN, chat_template=template)(Sample("x", turns, "file, index 3"))


def test_wrong_encoders():
    from transformers import PreTrainedTokenizerFast

    from tests.multimodal.toys import gpt2

    with pytest.raises(InputError, match="among its special tokens"):
        ChatEncoder(PreTrainedTokenizerFast(tokenizer_object=gpt2()), RUN)
    with pytest.raises(InputError, match="at least 1"):
        ChatEncoder(tokenizer("gpt2"), 0)
    with pytest.raises(InputError, match="without turns"):
        ChatEncoder(tokenizer("gpt2"), RUN)(Sample("x", ()))


def test_collate(tmp_path):
    Image.new("RGB", (2, 2), "red").save(tmp_path / "red.png")
    encoder = ChatEncoder(tokenizer("gpt2"), RUN)
    answer = Turn("assistant", ("Red.",))
    rows = [
        encoder(Sample("a", (Turn("user", ("words",)), answer))),
        encoder(Sample("b", (Turn("user", (PICTURES[5], PICTURES[7])), answer))),
        encoder(Sample("c", (Turn("user", (ImageFile(tmp_path / "red.png"),)), answer))),
    ]

    def pixels(images):
        return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).float() for image in images])

    batch = collate(rows, pad_token_id=9, pixels=pixels)
    assert batch["image_counts"].tolist() == [0, 2, 1]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [5, 7, 255]
    assert batch["pixel_values"].shape == (3, 3, 2, 2)
    for index, row in enumerate(rows):
        length = len(row.input_ids)
        assert batch["input_ids"][index].tolist() == row.input_ids + [9] * (batch["input_ids"].shape[1] - length)
        assert batch["labels"][index, :length].tolist() == row.labels
        assert (batch["labels"][index, length:] == -100).all()
        assert batch["attention_mask"][index].sum() == length
    assert "pixel_values" not in collate(rows)
    assert "pixel_values" not in collate(rows[:1], pixels=pixels)
    with pytest.raises(InputError, match="values of 3 images"):
        collate(rows, pixels=lambda images: pixels(images)[:2])
    with pytest.raises(InputError, match="at least one"):
        collate([])
    gone = Encoded([1], [-100], (ImageFile(tmp_path / "none.png"),), "file, index 2")
    with pytest.raises(InputError, match=r"none\.png"):
        collate([gone], pixels=pixels)
