"""Test the tables made from Debian packages, on tiny packages built here."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile

import pandas as pd
import pytest

from examples.public_data import debian, prompts, stamps, summary
from examples.public_data.__main__ import main


def package(files: dict[str, bytes]) -> bytes:
    """Return a Debian package: an ar archive with the members debian-binary and data.tar.xz."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    result = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n!"), ("data.tar.xz", data.getvalue())):
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        result += header.encode() + content + b"\n" * (len(content) % 2)
    return result


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Serve packages from a folder; return the function that adds one."""
    pool = tmp_path / "pool"
    monkeypatch.setattr(debian, "_POOL", pool.as_uri())

    def add(path: str, files: dict[str, bytes]) -> debian.Package:
        content = package(files)
        (pool / path).parent.mkdir(parents=True, exist_ok=True)
        (pool / path).write_bytes(content)
        return debian.Package(path, hashlib.sha256(content).hexdigest())

    return add


def test_unpack(archive, tmp_path):
    one = archive("a/one.deb", {"usr/share/a.txt": b"a" * 1001, "usr/b": b""})
    debian.unpack([one], tmp_path / "out")
    assert (tmp_path / "out/usr/share/a.txt").read_bytes() == b"a" * 1001
    (tmp_path / "out/usr/b").unlink()
    debian.unpack([one], tmp_path / "out")  # it is there
    assert not (tmp_path / "out/usr/b").exists()
    with pytest.raises(ValueError, match="not the expected file"):
        debian.unpack([debian.Package("a/one.deb", "0" * 64)], tmp_path / "other")
    assert not (tmp_path / "other/usr").exists()


def test_files_outside_the_folder_are_rejected(archive, tmp_path):
    evil = archive("a/evil.deb", {"../../evil.txt": b""})
    with pytest.raises(tarfile.FilterError):
        debian.unpack([evil], tmp_path / "x/y")
    assert not (tmp_path / "evil.txt").exists()


def test_stamps(archive, tmp_path, monkeypatch):
    root = "usr/share/tuxpaint/stamps"
    files = {f"{root}/{each}": b"" for each in ("food/a.png", "food/b.png", "food/a_desc_fr.ogg")}
    files |= {f"{root}/food/c.png": b"", f"{root}/rare/d.png": b""}
    for name in ("food/a", "food/b", "rare/d"):
        files[f"{root}/{name}.txt"] = f"An {name}, “x”.\nfr.utf8=Un\n".encode()
    monkeypatch.setattr(stamps, "PACKAGES", (archive("t/stamps.deb", files),))
    monkeypatch.setattr(stamps, "_LEAST", 2)
    table = pd.read_csv(stamps.make(tmp_path / "data"), keep_default_na=False)
    assert table["picture"].tolist() == [f"{root}/food/a.png", f"{root}/food/b.png"]
    assert table["description"].tolist() == ["An food/a, “x”.", "An food/b, “x”."]
    assert table["spoken"].tolist() == [f"{root}/food/a_desc_fr.ogg", ""]
    assert set(table["label"]) == {"food"}


def test_prompts(archive, tmp_path, monkeypatch):
    packages = []
    for language, voice in prompts._VOICES.items():
        sounds = f"usr/share/asterisk/sounds/{voice}"
        text = f"\ufeff; Core sounds\n\nhi: Hi {language}: you\nno-file: x\ndigits/1: один\n"
        name = f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
        files = {f"{sounds}/hi.wav": b"", f"{sounds}/digits/1.wav": b""}
        packages.append(archive(f"a/{language}.deb", files | {name: gzip.compress(text.encode())}))
    monkeypatch.setattr(prompts, "PACKAGES", tuple(packages))
    table = pd.read_csv(prompts.make(tmp_path / "data"))
    assert len(table) == 10
    assert table["transcript"].tolist()[:2] == ["Hi en: you", "один"]
    assert table["prompt"].tolist()[:2] == ["hi", "digits/1"]
    assert sorted(set(table["label"])) == ["en", "es", "fr", "it", "ru"]
    assert all((tmp_path / "data" / each).is_file() for each in table["recording"])


def test_a_failed_download_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(debian, "_POOL", (tmp_path / "nothing").as_uri())
    assert main(["stamps", "--data", str(tmp_path / "data")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def evaluation(fusion: float | None, text: float) -> str:
    """Return the part of an evaluation.json that a summary reads."""
    scores = {"fusion": fusion, "image only": 0.25, "text only": text}
    models = {name: {"scores": {"accuracy": {"value": v}}} for name, v in scores.items()}
    changes = [("image", "removed", None, text), ("image", "noise", 0.5, 0.0)]
    keys = ("modality", "change", "strength", "score")
    robustness = [dict(zip(keys, change, strict=True)) for change in changes]
    found = {"score": "accuracy", "main": "fusion", "models": models, "robustness": robustness}
    return json.dumps(found)


def test_summary(tmp_path, capsys):
    for number, scores in enumerate([(0.75, 0.5), (0.5, 1.0)]):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "evaluation.json").write_text(evaluation(*scores))
    folders = [str(tmp_path / "0"), str(tmp_path / "1")]
    assert summary.main([*folders, "--picture", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert capsys.readouterr().out.splitlines() == [
        "| model (2 splits) | mean accuracy | range | difference |",
        "| --- | --: | --: | --: |",
        "| fusion | 0.625 | 0.500-0.750 | +0.000 |",
        "| text only | 0.750 | 0.500-1.000 | +0.125 |",
        "| image only | 0.250 | 0.250-0.250 | -0.375 |",
        "",
        "| change of the inputs of fusion | mean accuracy | range | difference |",
        "| --- | --: | --: | --: |",
        "| image removed | 0.750 | 0.500-1.000 | +0.125 |",
    ]


def test_summary_of_runs_that_cannot_be_joined(tmp_path, capsys):
    assert summary.main([str(tmp_path)]) == 2
    assert "run `fastrnn evaluate" in capsys.readouterr().err
    for name, score in (("a", "accuracy"), ("b", "r2")):
        (tmp_path / name).mkdir()
        text = evaluation(0.5, 0.5).replace("accuracy", score)
        (tmp_path / name / "evaluation.json").write_text(text)
    assert summary.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "the same models and score" in capsys.readouterr().err
    assert summary.main([str(tmp_path / "a"), "--picture", str(tmp_path / "none" / "a.png")]) == 2
    assert "No such file" in capsys.readouterr().err
    for text, said in (("{", "not JSON"), (evaluation(None, 0.5), "a score is undefined")):
        (tmp_path / "a" / "evaluation.json").write_text(text)
        assert summary.main([str(tmp_path / "a")]) == 2
        assert said in capsys.readouterr().err
