"""Programs that take the bytes of an image and normalise them themselves."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import penjing as pj
from penjing.cli.app import app
from penjing.codegen import emulator
from penjing.codegen.build import warnings_of
from penjing.codegen.targets import CORTEX_M4
from penjing.errors import InputError, StrategyError

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

COLOURS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Seer(nn.Module):
    """A padded convolution on an image, and a number beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.fc = nn.Linear(5, 2)

    def forward(self, image, by):
        return self.fc(self.conv(image).relu().mean((2, 3))) * by


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("program")


@pytest.fixture(scope="module")
def seer():
    torch.manual_seed(0)
    return Seer().eval()


@pytest.fixture(scope="module")
def program(seer, folder):
    example = (torch.randn(2, 3, 9, 7), torch.randn(2, 1))
    return pj.compile(seer, example, out=folder, preprocessing=pj.Normalize(**COLOURS))


def bytes_of(shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def test_bytes_give_what_the_network_makes_of_the_normalised_image(seer, program):
    image, by = bytes_of((2, 9, 7, 3)), torch.tensor([[1.0], [-2.0]])
    mean, std = (torch.tensor(COLOURS[key]) for key in ("mean", "std"))
    seen = ((image / 255 - mean) / std).permute(0, 3, 1, 2)
    wanted = seer(seen, by).detach()
    torch.testing.assert_close(program(image, by), wanted, rtol=1e-5, atol=1e-5)


def test_planes_are_taken_as_well(seer):
    scaled = pj.Normalize(mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0), scale=1.0)
    planes = pj.Normalize(mean=scaled.mean, std=scaled.std, scale=1.0, layout="NCHW")
    program = pj.compile(seer, (torch.randn(1, 3, 9, 7), torch.ones(1, 1)), preprocessing=planes)
    image = bytes_of((1, 3, 9, 7))
    wanted = seer(scaled(image.permute(0, 2, 3, 1)), torch.ones(1, 1)).detach()
    torch.testing.assert_close(program(image, torch.ones(1, 1)), wanted, rtol=1e-5, atol=1e-5)


def test_the_normalisation_writes_the_border_that_the_first_layer_wants(program):
    kinds = [step.layer.kind for step in program.files.text.steps]
    assert kinds[:2] == ["map", "conv"]


def test_the_header_says_what_the_program_does_with_the_bytes(program):
    said = " ".join(program.header.replace("\n *", " ").split())
    assert (
        "input0: uint8_t, 2 x 9 x 7 x 3, row-major; image, NHWC; the program computes (byte * "
        "0.00392156863 - mean) / std with mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225"
    ) in said


def test_the_description_has_the_numbers(program, folder):
    del program
    described = json.loads((folder / "net.json").read_text())["inputs"][0]["preprocessing"]
    assert described == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
                         "scale": 1 / 255, "layout": "NHWC"}  # fmt: skip


def said_by_ctest(folder, build) -> str:
    """What ctest says of a program's folder."""
    optimise = ("-DCMAKE_C_FLAGS=-O1", "-DCMAKE_BUILD_TYPE=None")
    for command in (
        ["cmake", "-S", str(folder), "-B", str(build), *optimise],
        ["cmake", "--build", str(build)],
        ["ctest", "--test-dir", str(build), "--verbose"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake")


@needs_cmake
def test_cmake_builds_the_folder_and_its_test_finds_the_vector_of_bytes_equal(
    program, folder, tmp_path
):
    del program
    assert "penjing: equal yes" in said_by_ctest(folder, tmp_path)


@needs_cmake
def test_cmake_builds_an_integer_program_and_its_test_finds_the_bits_equal(integers, tmp_path):
    integers.save(tmp_path / "source")
    assert "penjing: equal yes" in said_by_ctest(tmp_path / "source", tmp_path / "build")


def test_floats_are_refused_where_bytes_are_taken(program):
    with pytest.raises(InputError, match="float32; the program takes uint8"):
        program(torch.ones(2, 9, 7, 3), torch.ones(2, 1))


def test_a_network_without_such_an_image_is_refused(seer):
    grey = pj.Normalize(mean=(0.5,), std=(0.5,))
    with pytest.raises(StrategyError, match=r"one input \(N, 1, H, W\).*0 inputs"):
        pj.compile(seer, (torch.ones(1, 3, 9, 7), torch.ones(1, 1)), preprocessing=grey)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"mean": (0.5, 0.5), "std": (1.0,)}, "mean has 2 values and std 1"),
        ({"mean": (0.5,), "std": (0.0,)}, "positive"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "not finite"),
        ({"mean": (0.5,), "std": (1.0,), "layout": "CHW"}, "NHWC, NCHW"),
    ],
    ids=["lengths", "zero", "nan", "layout"],
)
def test_numbers_that_make_no_normalisation_are_refused(numbers, said):
    with pytest.raises(StrategyError, match=said):
        pj.Normalize(**numbers)


def test_the_image_of_a_normalised_image_is_itself():
    image, colours = bytes_of((2, 4, 5, 3)), pj.Normalize(**COLOURS)
    assert torch.equal(colours.image_of(colours(image)), image)


def test_streams_of_images_are_refused():
    with pytest.raises(StrategyError, match="streams"):
        pj.compile(
            nn.Conv2d(1, 1, 1),
            torch.ones(1, 1, 4, 4),
            stream_dim=2,
            preprocessing=pj.Normalize(mean=(0.5,), std=(0.5,)),
        )


@pytest.fixture(scope="module")
def quantized():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3)
    batch = pj.Normalize(**COLOURS)(bytes_of((16, 9, 11, 3)))
    return pj.quantize(nn.Sequential(*layers).eval(), batch[:1], calibration=[batch]).model


@pytest.fixture(scope="module")
def integers(quantized):
    return pj.compile(quantized, torch.ones(1, 3, 9, 11), preprocessing=pj.Normalize(**COLOURS))


def test_an_integer_program_makes_of_bytes_the_bits_it_makes_of_floats(quantized, integers):
    image = bytes_of((2, 9, 11, 3))
    wanted = pj.compile(quantized, torch.ones(1, 3, 9, 11))(pj.Normalize(**COLOURS)(image))
    assert torch.equal(integers(image), wanted)


def test_the_bytes_of_an_integer_program_need_no_memory_of_their_own(quantized, integers):
    plain = pj.compile(quantized, torch.ones(1, 3, 9, 11))
    assert integers.arena_bytes == plain.arena_bytes


def test_no_compiler_warns_of_an_integer_program_with_an_image(integers):
    assert warnings_of(integers.files, "net.c", "cc") == ""


def test_a_board_makes_of_bytes_the_bits_of_the_reference(quantized):
    if emulator.missing(CORTEX_M4):
        pytest.skip(emulator.missing(CORTEX_M4))
    colours = pj.Normalize(**COLOURS)
    program = pj.compile(quantized, torch.ones(1, 3, 9, 11), target="cortex-m4",
                         preprocessing=colours)  # fmt: skip
    assert program.check().equal


def test_floats_are_refused_where_integer_programs_take_bytes(integers):
    with pytest.raises(InputError, match="uint8"):
        integers(torch.ones(1, 9, 11, 3))


def test_planes_are_refused_for_integer_programs(quantized):
    planes = pj.Normalize(**COLOURS, layout="NCHW")
    with pytest.raises(StrategyError, match="layout='NHWC'"):
        pj.compile(quantized, torch.ones(1, 3, 9, 11), preprocessing=planes)


NET = """
import torch
model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.Flatten())
example_inputs = torch.ones(1, 3, 4, 4)
"""


def command(tmp_path, *options):
    (tmp_path / "net.py").write_text(NET)
    given = ["compile", str(tmp_path / "net.py"), "--out", str(tmp_path / "out"), *options]
    return CliRunner().invoke(app, given)


def test_the_command_takes_mean_std_and_layout(tmp_path):
    done = command(tmp_path, "--mean", "0.5,0.4,0.3", "--std", "1,1,1", "--layout", "NCHW")
    assert done.exit_code == 0, done.output
    assert "uint8_t, 1 x 3 x 4 x 4" in (tmp_path / "out" / "net.h").read_text()


def test_a_mean_without_a_std_is_refused(tmp_path):
    assert "--mean and --std go together" in command(tmp_path, "--mean", "0.5,0.4,0.3").output
