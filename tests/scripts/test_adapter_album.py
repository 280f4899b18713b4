"""The recipe of the adapter that sees: what its documents say, and that it runs through at tiny size."""

from __future__ import annotations

import torch

from multimodal.adapter import adapter_parameters, load_adapter


def test_what_is_asked_is_told_or_not(script) -> None:
    album = script("adapter_album")
    digit, ink = torch.tensor([7, 0]), torch.tensor([3, 7])
    told, untold = (album.documents(digit, ink, 2, told=some) for some in (True, False))
    assert told["input_ids"].shape == (2, 2 * album.WIDTH)
    assert told["input_ids"][:, 1:3].tolist() == [[17, 23], [10, 27]] == told["question_ids"][:, 0, 1:].tolist()
    assert (untold["input_ids"][:, 1:3] == album.UNSAID).all()
    assert (untold["input_ids"][:, 3:] >= album.NOISE).all()
    assert told["question_targets"][:, 0].tolist() == [[-100, 17, 23], [-100, 10, 27]]
    logits = torch.nn.functional.one_hot(told["question_ids"][:, :, [1, 2, 2]], album.WORDS).float()
    assert album.right(logits, digit, ink) == (1.0, 1.0)
    assert album.right(logits, digit, ink.flip(0)) == (1.0, 0.0)


def test_it_trains_the_adapter_alone_and_saves_it(script, monkeypatch, tmp_path) -> None:
    album, models, trained = script("adapter_album"), [], []

    def pictures(encoder, which, count, seed):
        return torch.randn(count, 5), torch.arange(count) % 10, torch.arange(count) % 8

    def learn(model, batches, *rest):
        models.append(model)
        trained.append({n for n, p in model.named_parameters() if p.requires_grad})
        real(model, batches, *rest)

    real = album.learn
    monkeypatch.setattr(album, "pictures", pictures)
    monkeypatch.setattr(album, "learn", learn)
    monkeypatch.setattr(album, "BATCH", 4)
    found = album.main([str(tmp_path), "--segments", "2", "--steps", "2", "2", "--pictures", "8", "6"])
    assert list(found) == [f"{n} segments{what}" for n in (2, 16) for what in ("", ", no picture", ", another's")]
    model = models[1]
    own = {id(p) for p in adapter_parameters(model).values()}
    assert trained[1] == {n for n, p in model.named_parameters() if id(p) in own}
    before = {n: p.detach().clone() for n, p in adapter_parameters(model).items()}
    torch.nn.init.zeros_(next(iter(adapter_parameters(model).values())))
    load_adapter(model, tmp_path / "adapter")
    assert all(torch.equal(p, before[n]) for n, p in adapter_parameters(model).items())
