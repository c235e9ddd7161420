import json
from pathlib import Path

from client.explain import Explained, Run
from client.explain_words import print_run

CONTENT = {
    "question": "What the model would have to see to say “effusion”",
    "answer": "The model reads this image as none (97 %).",
    "read_as": "none",
    "probabilities": {"none": 0.97, "effusion": 0.03},
    "scores": {"flip_alpha": 1.2},
}
ONE = Explained("explanation-effusion-01", "a.dcm", {"panel": Path("out/p.png")}, CONTENT)
TWO = Explained("explanation-effusion-02", "b.dcm", {}, {**CONTENT, "scores": {"flip_alpha": None}})


def run_of(*explained: Explained, refused=(), own: int = 0) -> Run:
    return Run(explained, refused, (Path("out/page.html"),), Path("out/index.json"), own)


def test_one_image_is_told_in_full(capsys):
    print_run(run_of(ONE), as_json=False)
    printed = capsys.readouterr().out
    for words in (CONTENT["question"], CONTENT["answer"], "Panel: out/p.png", "out/page.html"):
        assert words in printed
    assert "must not leave the hospital" in printed and "not a medical device" in printed


def test_several_images_get_a_line_each(capsys):
    print_run(run_of(ONE, TWO, own=3), as_json=False)
    printed = capsys.readouterr().out
    assert "a.dcm: none 97 %, the answer turns at step +1.2" in printed
    assert "b.dcm: none 97 %, the answer turns at no step shown" in printed
    assert "Left out: 3 files" in printed


def test_what_was_refused_goes_to_stderr(capsys):
    print_run(run_of(refused=(("c.dcm", "is cut off"),)), as_json=False)
    printed = capsys.readouterr()
    assert "  - c.dcm is cut off" in printed.err and "1 file\n" in printed.err
    assert "c.dcm" not in printed.out and "must not leave" not in printed.out


def test_json_holds_all_of_it_and_nothing_else_is_printed(capsys):
    print_run(run_of(ONE, refused=(("c.dcm", "is cut off"),)), as_json=True)
    printed = capsys.readouterr()
    content = json.loads(printed.out)
    assert content["explained"][0]["files"] == {"panel": "out/p.png"}
    assert content["explained"][0]["source"] == "a.dcm"
    assert content["not_explained"] == [{"source": "c.dcm", "reason": "is cut off"}]
    assert "must not leave" in content["note"] and printed.err == ""
