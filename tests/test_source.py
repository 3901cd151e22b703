import sys
from textwrap import dedent

import pytest
import torch
from torch import nn

from penjing.errors import InputError, SourceError, UnavailableError
from penjing.source import Source, load_source
from penjing.task import Task

WHOLE = """
    import torch
    from torch import nn
    from penjing.task import Task

    def model():
        return nn.Linear(3, 2)

    def example_inputs():
        return torch.ones(1, 3)

    def task():
        return Task(val=[torch.ones(1, 3)])

    def other():
        return nn.Linear(3, 7)
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="net.py"):
        path = tmp_path / name
        path.write_text(dedent(text))
        return path

    return write


def test_a_module_is_its_own_source():
    model = nn.Linear(3, 2)
    source = load_source(model)
    assert source.model is model
    assert source.name == "Linear"


def test_a_file_gives_model_inputs_and_task(write):
    source = load_source(write(WHOLE))
    assert isinstance(source.model, nn.Linear)
    assert source.need("example_inputs").shape == (1, 3)
    assert isinstance(source.need("task"), Task)


def test_a_file_may_give_several_tasks_by_name(write):
    several = "\ntasks = task\ndef task(): return {'a': tasks(), 'b': tasks()}\n"
    path = write(WHOLE)
    path.write_text(path.read_text() + several)
    assert list(load_source(path).need("task")) == ["a", "b"]
    path.write_text(path.read_text().replace("'b': tasks()", "'b': 3"))
    with pytest.raises(SourceError, match="gave a int; it must give"):
        load_source(path)


def test_a_function_of_a_file_can_be_chosen(write):
    assert load_source(f"{write(WHOLE)}:other").model.out_features == 7


def test_a_module_is_imported_by_name(write, tmp_path, monkeypatch):
    write(WHOLE, "some_nets.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_source("some_nets:other").model.out_features == 7
    assert load_source("some_nets").model.out_features == 2


def test_a_module_in_the_working_folder_is_found(write, tmp_path, monkeypatch):
    write(WHOLE, "nets_here.py")
    monkeypatch.chdir(tmp_path)
    assert load_source("nets_here").model.out_features == 2


def test_a_package_in_the_working_folder_is_no_saved_folder(tmp_path, monkeypatch):
    (tmp_path / "nets_package").mkdir()
    (tmp_path / "nets_package" / "__init__.py").write_text(dedent(WHOLE))
    monkeypatch.chdir(tmp_path)
    assert load_source("nets_package").model.out_features == 2


def test_a_class_is_built(write):
    path = write("from torch import nn\nclass Net(nn.Module): pass")
    assert type(load_source(f"{path}:Net").model).__name__ == "Net"


def test_objects_serve_as_well_as_functions(write):
    path = write("import torch\nmodel = torch.nn.Linear(3, 2)\ncalibration = [torch.ones(2, 3)]")
    source = load_source(path)
    assert source.model.out_features == 2
    assert len(source.need("calibration")) == 1


def test_a_file_imports_what_lies_beside_it(write):
    write("SIZE = 5", "sizes_beside.py")
    path = write(
        """
        from sizes_beside import SIZE
        from torch import nn
        def model(): return nn.Linear(SIZE, 2)
        """
    )
    assert load_source(path).model.in_features == 5


def test_the_import_path_is_as_before(write):
    before = list(sys.path)
    load_source(write(WHOLE))
    assert sys.path == before


def test_what_is_not_wanted_is_not_called(write):
    path = write(WHOLE + "\n    def calibration():\n        raise RuntimeError('slow')")
    assert load_source(path, want=("example_inputs",)).calibration is None


def test_a_missing_model_lists_what_there_is(write):
    with pytest.raises(SourceError, match=r"net\.py has no model\(\); it defines build\. Add `def"):
        load_source(write("def build(): pass"))


def test_a_missing_part_shows_what_to_write(write):
    source = load_source(write("from torch import nn\ndef model(): return nn.Linear(1, 1)"))
    with pytest.raises(SourceError, match=r"net\.py gives no task; add `def task\(\)"):
        source.need("task")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def model(): return {}", r"model\(\) gave a dict; it must give a torch\.nn\.Module"),
        ("def model(): pass", r"model\(\) returned None; is its return statement missing"),
        ("def model(size): return size", r"model\(\) failed: TypeError: .*size"),
        ("def model(): return 1 / 0", r"model\(\) failed: ZeroDivisionError"),
        ("import nowhere_at_all", r"running .*net\.py failed: ModuleNotFoundError"),
        ("def model(:", r"running .*net\.py failed: SyntaxError"),
        ("raise SystemExit(3)", r"running .*net\.py failed: SystemExit: 3"),
        (
            "from torch import nn\ndef model(): return nn.ReLU()\ndef example_inputs(): return 3",
            r"example_inputs\(\) gave a int; it must give a tensor",
        ),
        (
            "from torch import nn\ndef model(): return nn.ReLU()\ndef task(): return 3",
            r"task\(\) gave a int; it must give a penjing\.Task",
        ),
    ],
)
def test_what_a_file_does_wrong_is_said_with_its_place(text, message, write):
    with pytest.raises(SourceError, match=message):
        load_source(write(text))


def test_the_cause_of_a_failure_is_kept(write):
    with pytest.raises(SourceError) as caught:
        load_source(write("def model(): return 1 / 0"))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_errors_of_our_own_pass_through(write):
    path = write(
        """
        from torch import nn
        from penjing.task import Task
        def model(): return nn.ReLU()
        def task(): return Task(kind="other")
        """
    )
    with pytest.raises(InputError, match="kind is 'other'"):
        load_source(path)


def test_a_missing_file_lists_its_neighbours(write):
    path = write(WHOLE)
    with pytest.raises(SourceError, match=r"no file .*nets\.py; beside it are net\.py"):
        load_source(path.with_name("nets.py"))


def test_a_missing_module_is_named():
    with pytest.raises(SourceError, match="'nowhere_at_all' is no module that Python can import"):
        load_source("nowhere_at_all:model")


def test_a_module_that_imports_what_is_missing_says_what(write, tmp_path, monkeypatch):
    write("import nowhere_at_all", "some_importer.py")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SourceError, match=r"importing some_importer failed.*'nowhere_at_all'"):
        load_source("some_importer")


@pytest.mark.parametrize("name", ["net.txt", "my net.txt"])
def test_a_file_of_another_kind_lists_what_can_be_given(write, tmp_path, monkeypatch, name):
    write(WHOLE)
    write(WHOLE, name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=rf"{name} is a file of another kind; give net\.py, "):
        load_source(name)


@pytest.mark.parametrize("spec", ["what is this", "some/where", ""])
def test_a_name_that_is_nothing_lists_what_can_be_given(spec):
    with pytest.raises(SourceError, match="a saved folder"):
        load_source(spec)


def test_an_onnx_file_belongs_to_a_later_version():
    with pytest.raises(UnavailableError, match=r"net\.onnx: reading \.onnx comes with a later"):
        load_source("net.onnx")


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.safetensors"])
def test_a_file_of_weights_is_refused_with_what_to_write(name):
    with pytest.raises(SourceError, match="holds weights, not a network"):
        load_source(name)


def test_what_is_no_source_is_refused():
    with pytest.raises(SourceError, match="not from int"):
        load_source(3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    torch.export.save(torch.export.export(model, (torch.ones(2, 3),)), path)
    return model, path


def test_an_exported_file_is_read_only_with_trust(exported):
    with pytest.raises(SourceError, match="pass trust=True"):
        load_source(exported[1])


def test_an_exported_file_gives_the_network_and_its_inputs(exported):
    model, path = exported
    source = load_source(path, trust=True)
    torch.testing.assert_close(source.model(source.example_inputs), model(source.example_inputs))


def test_a_damaged_exported_file_is_refused(tmp_path):
    path = tmp_path / "net.pt2"
    path.write_bytes(b"not an archive")
    with pytest.raises(SourceError, match=r"reading .*net\.pt2 failed"):
        load_source(path, trust=True)


def test_a_folder_is_opened_by_who_knows_the_format(tmp_path):
    source = load_source(tmp_path, open_folder=lambda _: Source(nn.Linear(2, 2)))
    assert source.name == tmp_path.name


def test_a_folder_that_nobody_opens_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"penjing\.load"):
        load_source(tmp_path)
