"""Documents with images: read in order, nothing lost, and errors that say where."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multimodal.documents import has_images, iter_pieces
from multimodal.images import ImageFile
from multimodal.pieces import Figure
from rmt.data import iter_text
from rmt.errors import InputError


def paint(path: Path, color: str, size: tuple[int, int] = (4, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def read(source, **kwargs) -> list:
    """The stream as text, and (label, colour of the first pixel, after) of figures, texts in a row joined."""
    out: list = []
    for piece in iter_pieces(source, **kwargs):
        if isinstance(piece, Figure):
            out.append((piece.label, piece.load().getpixel((0, 0)), piece.after))
        elif out and isinstance(out[-1], str):
            out[-1] += piece
        else:
            out.append(piece)
    return out


RED, LIME, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def album(tmp_path):
    paint(tmp_path / "red.png", "red")
    paint(tmp_path / "sub dir" / "lime é.png", "lime")
    paint(tmp_path / "blue.png", "blue")
    return tmp_path


def test_markdown(album):
    page = album / "page.md"
    page.write_text(
        '# One\n![a red one](red.png "Title") then ![](sub%20dir/lime%20é.png) `![no](x.png)`\n\n'
        "<img alt='b' src='blue.png?raw=true' width=3>\n\n```\n![no](none.png)\n```\n![late]\n\n[late]: <red.png>\n"
    )
    assert has_images(page)
    assert read(page) == [
        "# One\n",
        ("a red one", RED, "Title"),
        " then ",
        ("", LIME, ""),
        " `![no](x.png)`\n\n",
        ("b", BLUE, ""),
        "\n\n```\n![no](none.png)\n```\n",
        ("late", RED, ""),
        "\n\n[late]: <red.png>\n",
    ]
    images = [piece.image for piece in iter_pieces(page) if isinstance(piece, Figure)]
    assert all(isinstance(image, ImageFile) for image in images), "decoded before it is needed"


def test_an_image_inside_the_document(album):
    import base64

    data = base64.b64encode((album / "red.png").read_bytes()).decode()
    page = album / "page.md"
    page.write_text(f"![x](data:image/png;base64,{data})")
    assert read(page) == [("x", RED, "")]
    page.write_text("\n![x](data:image/png;base64,AAAA)")
    with pytest.raises(InputError, match=r"page\.md, line 2: bytes: expected an image"):
        read(page)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("none.png", r"page\.md, line 3: .*none\.png: expected an image, got nothing of that name"),
        ("https://example.org/x.png", r"page\.md, line 3: .*got the link https://example.org/x.png; download"),
        ("sub%20dir", r"page\.md, line 3: .*got a folder"),
        ("page.md", r"page\.md, line 3: .*page\.md: expected an image .*something else"),
    ],
)
def test_errors_say_where(album, target, words):
    page = album / "page.md"
    page.write_text(f"# One\n\ntext ![x]({target}) text")
    with pytest.raises(InputError, match=words):
        read(page)
    if target != "page.md":
        assert read(page, missing="text") == [page.read_text()]


def test_a_folder_in_natural_order(tmp_path):
    for name, color in (("10.png", "blue"), ("9.png", "lime"), ("b/1.jpg", "red"), (".hidden.png", "red")):
        paint(tmp_path / name, color)
    (tmp_path / "9.txt").write_text("nine")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "notes.bin").write_bytes(b"\0")
    got = read(tmp_path)
    assert [part[0] if isinstance(part, tuple) else part for part in got] == [
        "9.png", "\n\nnine\n\n", "10.png", "\n\n", "b/1.jpg",
    ]  # fmt: skip
    assert has_images(tmp_path)


def test_names_that_begin_like_a_home(tmp_path, monkeypatch):
    monkeypatch.chdir(paint(tmp_path / "~red.png", "red").parent)
    Path("page.md").write_text("![a](~red.png)")
    assert read("page.md") == [("a", RED, "")]
    assert read("~red.png") == [("~red.png", RED, "")]
    Path("page.md").write_text("text")
    assert read(".") == ["text\n\n", ("~red.png", RED, "")]
    with pytest.raises(InputError, match="nothing of that name"):
        iter_pieces("~nobody/red.png")


def test_links_in_circles_and_closed_folders(tmp_path, monkeypatch):
    paint(tmp_path / "b.png", "red")
    (tmp_path / "round").symlink_to(tmp_path)
    assert read(tmp_path) == [("b.png", RED, "")]
    (tmp_path / "a.png").symlink_to("a.png")
    assert has_images(tmp_path)
    with pytest.raises(InputError, match=r"a\.png: expected an image, got nothing of that name"):
        read(tmp_path)

    def closed(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", closed)
    with pytest.raises(InputError, match="expected a folder that can be read, got Permission denied"):
        read(tmp_path)


def test_an_index_is_the_album(album):
    (album / "album.md").write_text("only ![r](red.png)\n")
    assert read(album) == ["only ", ("r", RED, ""), "\n"]


def test_an_image_shown_by_a_page_is_not_read_twice(album):
    (album / "page.md").write_text("![r](red.png)")
    (album / "link.png").symlink_to(album / "red.png")
    assert [part[0] for part in read(album) if isinstance(part, tuple)] == ["blue.png", "r", "sub dir/lime é.png"]


def test_one_image_and_what_is_only_text(album):
    assert read(album / "red.png") == [("red.png", RED, "")]
    text = album / "words.txt"
    text.write_text("![x](red.png)")
    assert not has_images(text)
    assert read(text) == ["![x](red.png)"]
    assert not has_images(album / "none")
    assert not has_images("-")
    assert not has_images("installed:")
    with pytest.raises(InputError, match="nothing of that name"):
        iter_pieces(album / "none")
    (album / "plain.md").write_text("no images\n" * 20_000)
    assert not has_images(album / "plain.md")
    assert read(album / "plain.md") == ["".join(iter_text(album / "plain.md"))]
    lines = album / "records.jsonl"
    lines.write_text(json.dumps({"text": "hello"}))
    assert not has_images(lines)
    assert read(lines) == ["hello"]


def test_nothing_to_read(tmp_path):
    (tmp_path / "a.md").write_text(" \n")
    with pytest.raises(InputError, match="neither"):
        read(tmp_path / "a.md")
    with pytest.raises(InputError, match="neither"):
        read(tmp_path)
    with pytest.raises(InputError, match="missing"):
        iter_pieces(tmp_path, missing="perhaps")
    with pytest.raises(InputError, match="max_pixels"):
        iter_pieces(tmp_path, max_pixels=0)


def test_bombs_and_broken_files_name_the_page(album):
    page = album / "page.md"
    page.write_text("![r](red.png)")
    with pytest.raises(InputError, match=r"page\.md, line 1: .*red\.png: expected an image of at most 11 pixels"):
        read(page, max_pixels=11)
    (album / "red.png").write_bytes((album / "red.png").read_bytes()[:50])
    with pytest.raises(InputError, match=r"page\.md, line 1: .*red\.png: expected a whole image"):
        read(page)


def test_not_utf8(tmp_path):
    (tmp_path / "a.md").write_bytes(b"\xff\xfe![x](y.png)")
    with pytest.raises(InputError, match="UTF-8"):
        read(tmp_path / "a.md")


def test_conversations(album):
    samples = [
        {"id": "1", "image": "red.png", "conversations": [
            {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]},
        {"id": "2", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
    ]  # fmt: skip
    for name, text in (("a.json", json.dumps(samples)), ("a.jsonl", "\n".join(map(json.dumps, samples)))):
        (album / name).write_text(text)
        assert has_images(album / name)
        assert read(album / name) == [
            "USER: ", ("", RED, ""), "\nWhat?\nASSISTANT: Red.\n\nUSER: Hi\nASSISTANT: Ho\n",
        ]  # fmt: skip


def test_memory_does_not_grow_with_the_document(album):
    page = album / "long.md"

    def peak(count: int) -> int:
        page.write_text(("words " * 200 + "![r](red.png) and `code`\n\n") * count)
        tracemalloc.start()
        seen = sum(isinstance(piece, Figure) for piece in iter_pieces(page))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seen == count
        return most

    peak(10)  # what is imported and compiled once
    assert peak(1_500) < peak(300) + 200_000  # the texts are 1.5 MB apart


def scanned_pdf(path: Path) -> Path:
    pages = [Image.new("RGB", (30, 40), color) for color in ("red", "blue")]
    pages[0].save(path, "PDF", save_all=True, append_images=pages[1:])
    return path


def test_pdf_of_scanned_pages(tmp_path):
    path = scanned_pdf(tmp_path / "scan.pdf")
    assert has_images(path)
    got = [part for part in read(path) if isinstance(part, tuple)]
    assert [part[0] for part in got] == ["[page 1]", "[page 2]"]
    for part, color in zip(got, (RED, BLUE), strict=True):
        assert np.abs(np.subtract(part[1], color)).max() < 5  # JPEG
    with pytest.raises(InputError, match=r"scan\.pdf, page 1, image 1: expected an image of at most 1,199 pixels"):
        read(path, max_pixels=1_199)
    assert read(path, max_pixels=1_199, missing="text") == ["[page 1] (not readable)\n[page 2] (not readable)\n"]


def test_pdf_shows_what_a_page_draws_and_not_what_its_resources_list(tmp_path):
    path = written_pdf(tmp_path / "a.pdf")
    got = read(path)
    colours = [(part[0], part[1]) for part in got if isinstance(part, tuple)]
    # Page 1 draws /B, then a form with /A in it, then /B again; page 2 draws nothing, with the same resources.
    assert colours == [("[page 1, image 1]", BLUE), ("[page 1, image 2]", RED), ("[page 1, image 3]", LIME)]
    assert got[0].startswith("Hello page one")
    assert got[-1].endswith("Hello page two\n")


@pytest.mark.parametrize("rotate", [0, 90, 180, 270, -90])
@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (1, 0, 0, -1),
                                    (-1, 0, 0, 1), (0, 1, 1, 0), (0, -1, -1, 0)])  # fmt: skip
def test_pdf_images_lie_as_their_page_shows_them(tmp_path, rotate, matrix):
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, NameObject

    pixels = np.kron(np.array([[RED, LIME], [BLUE, (255, 255, 0)]], np.uint8), np.ones((20, 20, 1), np.uint8))
    Image.fromarray(pixels).save(tmp_path / "one.pdf")
    writer = PdfWriter(tmp_path / "one.pdf")
    page = writer.pages[0]
    (name,) = page["/Resources"]["/XObject"]
    a, b, c, d = matrix
    content = DecodedStreamObject()
    content.set_data(f"q 0 9 9 0 0 0 cm Q q {a} {b} {c} {d} 0 0 cm 20 0 0 20 0 0 cm {name} Do Q".encode())
    page[NameObject("/Contents")] = writer._add_object(content)
    page.rotate(rotate)
    writer.write(tmp_path / "page.pdf")
    # Where each corner of the image stands around its middle, on the page, then as a viewer turns the page clockwise.
    expected = {}
    for x, y, color in ((-1, 1, 0), (1, 1, 1), (-1, -1, 2), (1, -1, 3)):
        at = (a * x + c * y, b * x + d * y)
        for _ in range(rotate // 90 % 4):
            at = (at[1], -at[0])
        expected[at] = color
    (figure,) = [piece for piece in iter_pieces(tmp_path / "page.pdf") if isinstance(piece, Figure)]
    shown = np.asarray(figure.load()).astype(int)
    colors = np.array([RED, LIME, BLUE, (255, 255, 0)])
    for (x, y), color in expected.items():
        seen = shown[10 if y > 0 else 30, 30 if x > 0 else 10]
        assert np.abs(colors - seen).sum(axis=1).argmin() == color


def written_pdf(path: Path) -> Path:
    from pypdf import PdfWriter
    from pypdf.generic import ArrayObject, DecodedStreamObject, DictionaryObject, NameObject, NumberObject

    writer = PdfWriter()

    def stream(data: bytes, **entries):
        out = DecodedStreamObject()
        out.set_data(data)
        out.update({NameObject("/" + key): value for key, value in entries.items()})
        return writer._add_object(out)

    def image(color: tuple[int, int, int]):
        return stream(
            bytes(color) * 4, Type=NameObject("/XObject"), Subtype=NameObject("/Image"), Width=NumberObject(2),
            Height=NumberObject(2), ColorSpace=NameObject("/DeviceRGB"), BitsPerComponent=NumberObject(8),
        )  # fmt: skip

    inside = DictionaryObject({NameObject("/XObject"): DictionaryObject({NameObject("/A"): image(RED)})})
    box = ArrayObject([NumberObject(n) for n in (0, 0, 9, 9)])
    form = stream(b"q /A Do Q", Type=NameObject("/XObject"), Subtype=NameObject("/Form"), BBox=box, Resources=inside)
    font = DictionaryObject({
        NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1"),
        NameObject("/BaseFont"): NameObject("/Helvetica"),
    })  # fmt: skip
    resources = DictionaryObject({
        NameObject("/XObject"): DictionaryObject({NameObject("/B"): image(BLUE), NameObject("/F"): form}),
        NameObject("/Font"): DictionaryObject({NameObject("/T"): writer._add_object(font)}),
    })  # fmt: skip
    inline = b"\nq BI /W 1 /H 1 /CS /RGB /BPC 8 ID \x00\xff\x00 EI Q\n"
    for text, drawn in ((b"one", b"/B Do /F Do /B Do" + inline), (b"two", b"")):
        page = writer.add_blank_page(100, 100)
        page[NameObject("/Resources")] = resources
        page[NameObject("/Contents")] = stream(b"BT /T 9 Tf 9 9 Td (Hello page " + text + b") Tj ET " + drawn)
    writer.write(path)
    return path


def test_broken_pdf(tmp_path):
    path = scanned_pdf(tmp_path / "a.pdf")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"a\.pdf"):
        read(path)
