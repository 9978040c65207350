"""Networks and decoders of a user's own, from settings to images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import erk_bench
from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.networks.own_network import load_own
from erk_bench.runs.checks import check_images, check_networks
from erk_bench.runs.device import Place
from erk_bench.runs.records import read_record
from erk_bench.runs.sample_block import sample_block
from erk_bench.spec import RunSpec

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_model.py"
CPU = torch.device("cpu")
FEW = ["schedule.num_steps=4"]

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, classes=0, by=0.5):
        super().__init__()
        self.img_channels, self.img_resolution, self.num_classes = 1, 8, classes
        self.by = torch.nn.Parameter(torch.tensor(by))

    def forward(self, x, sigma, condition):
        return self.by * x / (1 + sigma**2)

def load(*, by=0.5):
    return Net(0, by)

def weak():
    return Net(0, 0.25)

def from_file(checkpoint, *, classes=3):
    return Net(classes, float(checkpoint.read_text()))

def decode(x):
    return x.mul(127).add(128).clip(0, 255).byte()

def larger(x):
    return decode(x).repeat_interleave(2, 2).repeat_interleave(2, 3).expand(-1, 3, -1, -1)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a user's file my.py into a folder where the test then works."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        file = tmp_path / "my.py"
        file.write_text(text)
        return file

    return write


def images(spec: RunSpec) -> Tensor:
    return sample_block(spec, [0, 1, 2], Place.of(spec)).on_device


def test_the_example_is_a_run_with_digits_and_their_metric(tmp_path: Path) -> None:
    """A network of ten lines, guided by itself under its null class, from the command line to the record."""
    settings = [
        f"model={EXAMPLE}:load", f"model.decoder={EXAMPLE}:decode", "model.unconditional=same",
        "guidance=cfg", "guidance.weight=1.5", "schedule.num_steps=6", "seeds=0-39", "block_size=20",
        "workers=1", "device=cpu", f"out={tmp_path}", "metrics.names=[fd_digits]", "metrics.num_groups=5",
    ]  # fmt: skip
    assert main(["run", *settings]) == 0
    (file,) = tmp_path.glob("my_model.load-heun6-cfg1.5-*/records/*.json")
    record = read_record(file)
    assert record.run_spec == run_spec(settings)
    assert (record.nfe, record.nfe_guide) == (11, 11)
    assert record.metrics["fd_digits"].value < 300


def test_exact_samples_are_digits() -> None:
    net = erk_bench.load_denoiser(f"{EXAMPLE}:load")
    assert (net.img_channels, net.img_resolution, net.num_classes, net.label_dim) == (1, 8, 10, 10)
    noise, labels = erk_bench.draw(range(6), net)
    assert labels is not None
    x = erk_bench.sample(net, noise, labels, num_steps=20)
    data = net.network.data
    distance, index = torch.cdist(x.flatten(1), data).min(dim=1)
    assert distance.max() < 0.05 and torch.equal(net.network.classes[index], labels.argmax(1))


def test_code_options_and_checkpoints_are_identity(own: Callable[[str], Path], tmp_path: Path) -> None:
    file = own(NET)
    spec = run_spec(["model=my.py:load", *FEW])
    assert spec.model.name == "my.load" and spec.model.decoder == "by_channels" and not spec.weights
    assert spec.own_code == ("my.py:load",)
    assert run_spec(["model.path=my.py:load", *FEW]) == spec
    assert run_spec(["model=my.py:load", "model.by=0.5", *FEW]) == spec  # the default
    other = run_spec(["model=my.py:load", "model.by=0.75", *FEW])
    assert other.digest != spec.digest and not torch.equal(images(other), images(spec))
    (tmp_path / "a.txt").write_text("0.5")
    given = ["model=my.py:from_file", "model.classes=2", *FEW]
    loaded = run_spec([*given, "model.checkpoint=a.txt"])
    assert loaded == run_spec([*given, "model.weights.path=a.txt"])
    assert [item.path for item in loaded.weights] == ["a.txt"]
    block = sample_block(loaded, [0, 1, 2], Place.of(loaded)).host()
    assert torch.equal(block.images, images(spec)) and set(block.classes.tolist()) <= {0, 1}
    (tmp_path / "a.txt").write_text("0.6")
    assert run_spec([*given, "model.checkpoint=a.txt"]).digest != loaded.digest
    file.write_text(NET + "\n# another text\n")
    assert run_spec(["model=my.py:load", *FEW]).digest != spec.digest


def test_guides_of_a_users_own(own: Callable[[str], Path]) -> None:
    own(NET)
    guided = ["guidance=cfg", "guidance.weight=2", *FEW]
    spec = run_spec(["model=my.py:load", "model.unconditional.path=my.py:weak", *guided])
    assert spec.own_code == ("my.py:load", "my.py:weak")
    assert run_spec(["model=my.py:load", "model.unconditional=my.py:weak", *guided]) == spec
    block = sample_block(spec, [0, 1], Place.of(spec))
    assert (block.nfe, block.nfe_guide) == (7, 7)
    assert not torch.equal(block.on_device, images(run_spec(["model=my.py:load", *FEW]))[:2])
    weak = ["model=my.py:load", "guidance=autoguidance", "guidance.weight=2", *FEW]
    options = run_spec(["model.weaker.path=my.py:load", "model.weaker.by=0.25", *weak])
    assert options.guidance.guide is not None and dict(options.guidance.guide.options) == {"by": 0.25}
    shipped = run_spec(["model.unconditional.path=my.py:weak", *guided])  # digits with a guide of one's own
    assert shipped.model.name == "digits" and images(shipped).shape == (3, 1, 8, 8)
    with pytest.raises(UserError, match="model 'my.load' has no 'unconditional' network"):
        run_spec(["model=my.py:load", *guided])


def test_the_same_network_is_identity_and_needs_no_file() -> None:
    spec = run_spec(["model.unconditional=same", "guidance=cfg", "guidance.weight=2", *FEW])
    assert spec.guidance.null_class and spec.guidance.guide is None and len(spec.weights) == 1
    assert spec.digest != run_spec(["guidance=cfg", "guidance.weight=2", *FEW]).digest
    block = sample_block(spec, [0, 1, 2], Place.of(spec))
    assert (block.nfe, block.nfe_guide) == (7, 7)
    assert not torch.equal(block.on_device, images(run_spec(FEW)))
    with pytest.raises(UserError, match="only model.unconditional may be"):
        run_spec(["model.weaker=same", "guidance=autoguidance", "guidance.weight=2"])


def test_the_same_network_needs_classes(own: Callable[[str], Path]) -> None:
    own(NET)
    spec = run_spec(["model=my.py:load", "model.unconditional=same", "guidance=cfg", "guidance.weight=2"])
    with pytest.raises(UserError, match="model.unconditional is 'same', but the model knows no classes"):
        check_networks(spec, Assets.from_environment())


def test_decoders_of_a_users_own(own: Callable[[str], Path]) -> None:
    own(NET + "\nlarger.factor = 2\n")
    plain = run_spec(["model=my.py:load", *FEW])
    spec = run_spec(["model=my.py:load", "model.decoder=my.py:larger", *FEW])
    assert spec.model.decoder == "my.larger" and spec.digest != plain.digest
    same_size = run_spec(["model=my.py:load", "model.decoder=my.py:decode", *FEW])
    assert check_images(same_size, Assets.from_environment()) == 8
    assert images(spec).shape == (3, 3, 16, 16) and images(plain).shape == (3, 1, 8, 8)
    with pytest.raises(UserError, match="metric 'fd_digits' takes images of 1 channels"):
        check_images(spec, Assets.from_environment())
    own(NET + "\nlarger.factor = 4\nlarger.image_channels = 3\n")
    with pytest.raises(
        UserError, match=r"returned a tensor \[3, 3, 16, 16\].*, not \[3, 3, 32, 32\]; expected"
    ):
        images(run_spec(["model=my.py:load", "model.decoder=my.py:larger", *FEW]))


# Another text of my.py, settings, and a part of the answer.
WRONG = [
    ("def load(): return 3", [], "load in 'my.py' returned a int; expected a network net(x, sigma, cond"),
    ("def load(): return lambda *a: 3", [], "returned a network without img_channels; expected a network"),
    (NET + "\nload = lambda: Net('ten')", [], "a network whose num_classes is 'ten', not a whole number"),
    (NET.replace("= 1, 8,", "= 1, 0,"), [], "whose img_resolution is 0, not a whole number of 1 or more"),
    (NET.replace("return self.by * x", "return x[:1]"), [], "the network of load in 'my.py' returned a t"),
    (NET.replace("return self.by", "return self.boy"), [], "failed at line 11: return self.boy * x / (1"),
    (NET, ["model.buy=1"], "unknown option of load in 'my.py' 'buy'; did you mean 'by'? Known: by"),
    (NET, ["model.by=half"], "option 'by' of load is 'half'; expected float, as 0.5 is"),
    (NET, ["model.checkpoint=my.py"], "load in 'my.py' takes (); a model takes (checkpoint), and"),
    (NET, ["model.path=my.py:from_file"], "takes (checkpoint); a model without checkpoint=FILE takes ()"),
    (NET, ["model.path=my.py:lod"], "unknown function in 'my.py' 'lod'; did you mean 'load'?"),
    (NET, ["model.decoder=my.py:decod"], "unknown function in 'my.py' 'decod'; did you mean 'decode'?"),
    (NET, ["model.decoder=gray"], "unknown decoder 'gray'; did you mean 'grey'?"),
    (NET, ["network_dtype=bfloat16"], "network_dtype, compile and numerics are for checkpoints"),
    (NET, ["numerics=published"], "a network of your own decides that"),
    (NET, ["numerics=fast"], "compile=false numerics=strict"),
    (NET + "\ndef f(x): return x", ["model.decoder=my.py:f"], "f in 'my.py' returned a tensor [1, 1, 8, 8]"),
    (NET + "\ndecode.factor = 0", ["model.decoder=my.py:decode"], "decode.factor in 'my.py' is 0; expected"),
    (NET.replace("= 1, 8,", "= 2, 8,"), [], "states have 2 channels, which are no pixels; set"),
    ("x = (", [], "'my.py' cannot be imported: SyntaxError"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "settings", "named"), WRONG)
def test_what_is_wrong_is_told_in_one_line(
    own: Callable[[str], Path], text: str, settings: list[str], named: str
) -> None:
    own(text)
    with pytest.raises(UserError) as caught:
        check_networks(run_spec(["model=my.py:load", *settings, *FEW]), Assets.from_environment())
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_planning_runs_nobodys_code(own: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    own("raise RuntimeError('run')\ndef load(): pass\ndef decode(x): pass")
    settings = ["model=my.py:load", "model.decoder=my.py:decode", "seeds=0-9", "block_size=5"]
    assert main(["plan", *settings]) == 0
    assert "evaluations and time of my.py:load, my.py:decode are not known" in capsys.readouterr().out


def test_a_network_follows_its_inputs(own: Callable[[str], Path]) -> None:
    """float32 in and out whatever the state is, one-hot rows as numbers, noise levels that broadcast."""
    own(
        "class Net:\n"
        "    img_channels, img_resolution, num_classes = 1, 2, 3\n"
        "    def __call__(self, x, sigma, condition):\n"
        "        self.seen = x.dtype, sigma.dtype, sigma.shape, condition\n"
        "        return (x / (1 + sigma)).double()\n"
        "load = Net\n"
    )
    net: Any = erk_bench.load_denoiser("my.py:load")
    out = net(torch.ones(3, 1, 2, 2).double(), torch.tensor([0.0, 1.0, 3.0]), torch.eye(3)[[2, 0, 1]])
    assert out.dtype == torch.float32 and out[:, 0, 0, 0].tolist() == [1, 0.5, 0.25]
    *kinds, shape, classes = net.network.seen
    assert kinds == [torch.float32, torch.float32] and shape == (3, 1, 1, 1) and classes.tolist() == [2, 0, 1]
    with pytest.raises(UserError, match="has changed since this run was made"):
        load_own("my.py:load", "0" * 64, CPU)
