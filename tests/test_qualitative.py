"""Side-by-side sheets of tiny pipelines, saved as real ones are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from erk_bench import cli
from erk_bench.commands.actions.qualitative import AMPLIFIED, Pair
from tests.test_diffusers import dit, stable_diffusion

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def dit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pipelines") / "tiny-dit"
    dit()[0].save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion with a tokenizer of single letters and a tiny text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pipelines")
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=16, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    pipe, _ = stable_diffusion()
    whole = diffusers.StableDiffusionPipeline(
        pipe.vae, CLIPTextModel(config), tokenizer, pipe.unet, pipe.scheduler, None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    whole.save_pretrained(folder / "tiny-text")
    return folder / "tiny-text"


@pytest.mark.parametrize("solver", ["dpm2", "heun"])
def test_sheet_of_classes(
    dit_folder: Path, tmp_path: Path, solver: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        f"model={dit_folder}",
        "classes=3,7",
        "seeds=0,1",
        "steps=6",
        "w_stiff=1",
        "w_con=0",
        "device=cpu",
    ]
    assert cli.main(["qualitative", *words, f"solver={solver}", f"to={tmp_path}"]) == 0
    name = f"qualitative-tiny-dit-{solver}6"
    assert f"4 pairs: {tmp_path / name}.png" in capsys.readouterr().out
    with Image.open(tmp_path / f"{name}.png") as image:
        first = np.asarray(image).copy()
    page = (tmp_path / f"{name}.html").read_text()
    assert page.count("<img") == 4 * 5 and "7, seed 1" in page and "w_stiff 1" in page
    # Baseline and guided differ, and so do seeds; again, the same bytes.
    assert cli.main(["qualitative", *words, f"solver={solver}", f"to={tmp_path}"]) == 0
    with Image.open(tmp_path / f"{name}.png") as image:
        assert np.array_equal(np.asarray(image), first)
    assert cli.main(["qualitative", *words, "w_stiff=0", f"solver={solver}", f"to={tmp_path / 'off'}"]) == 0
    with Image.open(tmp_path / "off" / f"{name}.png") as image:
        assert not np.array_equal(np.asarray(image), first)


def test_sheet_of_prompts(text_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a <cat>\n\na dog\n")
    words = [f"model={text_folder}", f"prompts={prompts}", "steps=4", "device=cpu", f"to={tmp_path}"]
    assert cli.main(["qualitative", *words]) == 0
    page = (tmp_path / "qualitative-tiny-text-dpm24.html").read_text()
    assert page.count("<h2>") == 2 and "a &lt;cat&gt;, seed 0" in page and "<cat>" not in page


def test_crop_is_where_the_two_differ_most() -> None:
    baseline = np.zeros((32, 48, 3), np.uint8)
    guided = baseline.copy()
    guided[20:26, 31:37] = 9
    pair = Pair("x", baseline, guided)
    rows, columns = pair.crop
    assert (rows.stop - rows.start, columns.stop - columns.start) == (8, 8)
    assert rows.start <= 20 and rows.stop >= 26 and columns.start <= 31 and columns.stop >= 37
    assert pair.difference.max() == 9 * AMPLIFIED and pair.difference.dtype == np.uint8
    assert Pair("x", guided * 10, baseline).difference.max() == 255


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model=pixart", "prompts=a"], "pixart_alpha"),
        (["prompts=a", "classes=1"], "give prompts"),
        ([], "give prompts for model 'pixart_alpha'"),
        (["model=dit_xl_2_512", "prompts=a"], "give classes"),
        (["model=dit_xl_2_512", "classes=dog"], "classes has 'dog'"),
        (["prompts=none.txt"], "cannot read prompts"),
        (["prompts=a", "seeds=0,x"], "seeds has 'x'"),
        (["prompts=a", "steps=0"], "steps is '0'"),
        (["prompts=a", "w_stiff=-1"], "w_stiff is '-1'"),
        (["prompts=a", "w_con=nan"], "w_con is 'nan'"),
        (["prompts=a", "solver=ddim"], "dpm2"),
        (["prompts=a", "promts=b"], "prompts"),
    ],
)
def test_settings_that_make_no_sheet(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["qualitative", f"to={tmp_path}", *words]) != 0
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_pipeline_that_is_damaged(
    dit_folder: Path, tmp_path: Path, copied: Callable[[Path, Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(dit_folder, tmp_path / "pipe")
    next((folder / "transformer").glob("*.safetensors")).write_bytes(b"no weights")
    assert cli.main(["qualitative", f"model={folder}", "classes=1", "device=cpu", f"to={tmp_path}"]) != 0
    assert "cannot load the pipeline" in capsys.readouterr().err


@pytest.fixture
def copied() -> Callable[[Path, Path], Path]:
    import shutil

    return lambda source, target: shutil.copytree(source, target)
