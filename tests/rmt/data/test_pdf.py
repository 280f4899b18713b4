"""Text of PDF files, and PDF files that give none."""

from __future__ import annotations

from pathlib import Path

import pypdf
import pytest

from rmt.data import iter_text
from rmt.errors import InputError


def minimal_pdf(pages: list[str]) -> bytes:
    """A PDF written by hand: one line of Helvetica on each page; an empty string makes an empty page."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        content = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    out = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    return out + (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
        f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    ).encode("latin-1")


def written(path: Path, pages: list[str]) -> Path:
    path.write_bytes(minimal_pdf(pages))
    return path


def encrypted(path: Path, pages: list[str], password: str) -> Path:
    writer = pypdf.PdfWriter(clone_from=written(path, pages))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="RC4-128")
    with path.open("wb") as file:
        writer.write(file)
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        list(iter_text(path))
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in (path.name, "expected", "got", ";"))
    return message


def test_pages_come_in_order_and_empty_ones_are_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pdf", ["Mary went to the garden.", "", "John went to the kitchen."])
    assert "".join(iter_text(path)) == "Mary went to the garden.\nJohn went to the kitchen.\n"


def test_pages_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.PDF", [f"This is page {number}." for number in range(100)])
    read = []
    extract = pypdf.PageObject.extract_text
    monkeypatch.setattr(pypdf.PageObject, "extract_text", lambda page: (read.append(1), extract(page))[1])
    pieces = iter_text(path)
    assert next(pieces) == "This is page 0.\n"
    assert len(read) == 1
    assert list(pieces) == [f"This is page {number}.\n" for number in range(1, 100)]


def test_parsed_objects_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = []
    init = pypdf.PdfReader.__init__
    monkeypatch.setattr(pypdf.PdfReader, "__init__", lambda self, path: (readers.append(self), init(self, path))[1])
    path = written(tmp_path / "a.pdf", [f"This is page {number}." for number in range(200)])
    assert max(len(readers[0].resolved_objects) for _ in iter_text(path)) < 200


def test_encryption_without_a_password_is_opened(tmp_path: Path) -> None:
    path = encrypted(tmp_path / "a.pdf", ["An open secret.", "Another one."], "")
    assert pypdf.PdfReader(path).is_encrypted
    assert "".join(iter_text(path)) == "An open secret.\nAnother one.\n"


def test_password_is_refused(tmp_path: Path) -> None:
    assert "password" in refused(encrypted(tmp_path / "a.pdf", ["A secret."], "sesame"))


def test_scan_without_text_is_refused(tmp_path: Path) -> None:
    assert "scan" in refused(written(tmp_path / "a.pdf", ["", ""]))


@pytest.mark.parametrize("raw", [b"", b"%PDF-1.4\n", b"not a PDF at all", minimal_pdf(["A text."])[:60]])
def test_broken_file_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(raw)
    assert "broken" in refused(path)


def test_broken_page_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.pdf", ["First.", "Second."])
    calls = iter([lambda: "First.", lambda: 1 / 0])
    monkeypatch.setattr(pypdf.PageObject, "extract_text", lambda page: next(calls)())
    assert "page 2" in refused(path)
