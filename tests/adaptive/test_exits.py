"""Early exits: what leaves early is what the truncated network says, and nothing else runs."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from tests.adaptive.chains import Masked, X, chain, deep, task
from torch import nn

import penjing as pj
from penjing.adaptive import NEVER, EarlyExitNetwork, ExitPolicy, StageRunner, write_stages
from penjing.adaptive.calibration import Answers, Calibration
from penjing.adaptive.heads import make_head
from penjing.errors import (
    BudgetError,
    CheckpointError,
    ExportError,
    InfeasibleError,
    InputError,
    StrategyError,
    UnavailableError,
)
from penjing.training import ExitTeacher

PLACES = ["blocks.0", "blocks.2"]
VECTORS = torch.randn(40, 6, generator=torch.Generator().manual_seed(4))
QUICK = {"epochs": 6, "lr": 0.02, "keep": "last", "progress": False}
POLICIES = [
    ExitPolicy(criterion="confidence", thresholds=(0.6, 0.7)),
    ExitPolicy(criterion="entropy", thresholds=(0.05, 0.1)),
    ExitPolicy(criterion="patience", thresholds=(2, 2)),
    ExitPolicy(thresholds=(NEVER, NEVER)),
]


@cache
def _fresh():
    return network(seed=0)


def network(**how):
    """A fresh network with exits; the usual one is made once."""
    if not how:
        return copy.deepcopy(_fresh())
    return pj.early_exits(chain(), X[:1], **{"at": PLACES, **how}).model


@pytest.fixture(scope="module")
def trained():
    made = network()
    return pj.train(made, made.task(task()), callbacks=[ExitTeacher()], **QUICK).model


def test_the_end_is_the_original_network():
    assert torch.equal(network()(X)[-1], chain()(X))


@pytest.mark.parametrize(
    ("shape", "layers"),
    [
        ((2, 4, 32, 32), "8 16 16"),
        ((2, 4, 8, 8), "4"),
        ((2, 4, 9, 15), "8 8"),
        ((2, 4, 130), "8 16 16"),
    ],
)
def test_a_deep_head_halves_maps_until_few_positions_are_left(shape, layers):
    made = make_head("deep", torch.ones(shape), "maps", 3)
    widths = [str(one.out_channels) for one in made if isinstance(one, nn.Conv1d | nn.Conv2d)]
    assert " ".join(widths) == layers


def test_a_deep_head_on_tokens_is_refused():
    with pytest.raises(StrategyError, match="head 'deep' needs maps, and the features are tokens"):
        make_head("deep", torch.ones(2, 5, 4), "tokens", 3)


@pytest.mark.parametrize("index", [0, 1])
def test_an_exit_says_what_the_truncated_network_says(index):
    made = network().double()
    given = X.double()
    original, head = chain().double(), made.heads[index]
    wanted = torch.relu(original.stem(given))
    for block in original.blocks[: 2 + index]:  # the pooling behind the first is before its exit
        wanted = block(wanted)
    torch.testing.assert_close(made(given)[index], head(wanted), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.criterion)
def test_inference_gives_each_sample_what_its_exit_says(trained, policy):
    made = copy.deepcopy(trained)
    made.policy = policy
    done, all_of_them = made.infer(X), torch.stack(made(X))
    wanted = all_of_them[policy.route(made(X)), torch.arange(len(X))]
    torch.testing.assert_close(done.outputs, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", POLICIES[:2], ids=lambda policy: policy.criterion)
def test_samples_leave_at_different_exits(trained, policy):
    assert len(set(policy.route(trained(X)).tolist())) > 1


def test_a_sample_leaves_at_the_same_exit_alone_and_in_a_batch(trained):
    made = copy.deepcopy(trained)
    made.policy = POLICIES[0]
    alone = [int(made.infer(x[None]).exits) for x in X]
    assert alone == made.infer(X).exits.tolist()


def test_behind_an_exit_only_the_samples_that_are_left_are_run(trained):
    made = copy.deepcopy(trained)
    made.policy = POLICIES[0]
    seen = []
    made.segments[2].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    left = int((made.infer(X).exits == 2).sum())
    assert seen == [left]


def test_when_all_have_left_nothing_more_is_run(trained):
    made = copy.deepcopy(trained)
    made.policy = ExitPolicy(thresholds=(0.0, 0.0))
    made.segments[1].register_forward_pre_hook(lambda *_: pytest.fail("it was run"))
    assert made.infer(X).exits.tolist() == [0] * len(X)


def test_training_moves_the_loss_of_every_exit(trained):
    fresh, now = (Answers.of(net, task()) for net in (network(), trained))
    loss = nn.functional.cross_entropy
    before, after = (
        [float(loss(one, answers.labels)) for one in answers.logits] for answers in (fresh, now)
    )
    assert all(a < b for a, b in zip(after, before, strict=True))


def test_a_frozen_trunk_stays_as_it_is_in_every_bit():
    made = network(freeze_trunk=True)
    tuned = pj.train(made, made.task(task()), **{**QUICK, "epochs": 1}).model
    assert torch.equal(tuned(X)[-1], chain()(X))


def test_a_mask_made_of_the_inputs_goes_along():
    torch.manual_seed(0)
    net, tokens = Masked().eval(), torch.randint(0, 20, (5, 7))
    made = pj.early_exits(net, tokens, at=[0.4]).model
    made.policy = ExitPolicy(thresholds=(0.3,))
    wanted = made(tokens)
    assert torch.equal(wanted[-1], net(tokens))
    torch.testing.assert_close(
        made.infer(tokens).outputs,
        torch.stack(wanted)[made.policy.route(wanted), torch.arange(5)],
    )


def test_a_layer_used_on_both_sides_of_an_exit_is_one_layer():
    made = pj.early_exits(Masked().eval(), torch.ones(2, 7, dtype=torch.long), at=[0.5]).model
    assert made.segments[0].layer.weight is made.segments[1].layer.weight


def test_exits_go_on_a_pruned_network():
    pruned = pj.prune(chain(), X[:1], pruning_ratio=0.5).model
    made = pj.early_exits(pruned, X[:1], exits=1).model
    assert torch.equal(made(X)[-1], pruned(X))


def test_at_takes_names_and_shares():
    made = network(at=["blocks.2", 0.5])
    assert [place.share for place in made.attachments] == pytest.approx([0.53, 0.74], abs=0.3)


def test_a_number_of_exits_goes_to_the_ends_of_stages():
    made = network(at=None, exits=1)
    assert made.attachments[0].name == "blocks.1"


def test_a_head_of_ones_own():
    made = network(head=lambda x, n: nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), n)))
    assert made(X)[0].shape == (len(X), 3)


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ({"at": None}, StrategyError, "either"),
        ({"exits": 1}, StrategyError, "either"),
        ({"at": None, "exits": 99}, InputError, "places"),
        ({"at": [1.5]}, StrategyError, "between 0 and 1"),
        ({"at": ["nowhere"]}, InputError, "the places are"),
        ({"at": ["blocks.0", "blocks.0"]}, StrategyError, "twice"),
        ({"head": "wide"}, StrategyError, "unknown head"),
        ({"head": lambda *_: nn.Identity()}, InputError, "the network gives"),
    ],
)
def test_a_wrong_wish_is_refused(how, error, says):
    with pytest.raises(error, match=says):
        network(**how)


def test_a_network_without_a_place_says_so():
    with pytest.raises(InputError, match="no place for an exit"):
        pj.early_exits(nn.Linear(4, 2), torch.ones(2, 4), exits=1)


def test_outputs_that_are_no_classes_are_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with pytest.raises(InputError, match="class scores"):
        pj.early_exits(net, X[:1], exits=1)


def test_inference_in_training_mode_is_refused():
    with pytest.raises(StrategyError, match="training mode"):
        network().train().infer(X)


@pytest.mark.parametrize(
    "look", [EarlyExitNetwork.original, EarlyExitNetwork.routed, lambda net: net.stage(0)]
)
def test_a_view_of_the_network_leaves_its_mode_alone(look):
    made = network(freeze_trunk=True).train()
    before = [module.training for module in made.modules()]
    look(made)
    assert [module.training for module in made.modules()] == before


def test_the_routed_network_is_not_captured():
    with pytest.raises(pj.PenjingError, match="depends on the data"):
        pj.find_groups(network().routed(), X[:1])


def test_it_is_not_compiled():
    with pytest.raises(UnavailableError, match="one by one"):
        pj.compile(network(), X[:1])


def test_it_is_exported_to_onnx_alone():
    with pytest.raises(ExportError, match=r"written as \.onnx"):
        pj.export(network(), X[:1], "net.c")


def brute_force(answers, costs, max_drop):
    """The cheapest of every pair of thresholds."""
    search = Calibration(answers, costs, "confidence")
    found = [
        search.candidate(ExitPolicy(thresholds=(first, second)))
        for first in search._levels[0]
        for second in search._levels[1]
    ]
    return min(one.cost for one in found if one.drop <= max_drop)


@pytest.mark.parametrize("max_drop", [0.0, 0.05])
def test_thresholds_come_near_the_best_of_all_pairs(trained, max_drop):
    answers, costs = Answers.of(trained, task()), (1.0, 2.0, 3.0)
    found = Calibration(answers, costs, "confidence").within_drop(max_drop)
    assert found.drop <= max_drop
    assert found.cost <= 1.05 * brute_force(answers, costs, max_drop)


def test_the_cost_of_a_policy_is_the_mean_over_samples(trained):
    answers = Answers.of(trained, task())
    one = Calibration(answers, (1.0, 2.0, 4.0), "confidence").candidate(POLICIES[0])
    taken = POLICIES[0].route(answers.logits)
    assert one.cost == pytest.approx(float(torch.tensor([1.0, 2.0, 4.0])[taken].mean()))


@pytest.mark.parametrize("criterion", ["confidence", "entropy", "patience"])
def test_calibration_keeps_the_drop_on_validation(trained, criterion):
    done = pj.calibrate_exits(trained, task(), max_drop=0.05, criterion=criterion, cost="macs")
    data = done.report.data
    assert data.metrics_before["accuracy"] - data.metrics_after["accuracy"] <= 0.05 + 1e-9
    assert sum(row.taken for row in data.exits) == pytest.approx(1)


def test_without_labels_agreement_is_kept(trained):
    bare = task(val=[X[64:]], loss=None, metrics=None)
    done = pj.calibrate_exits(trained, bare, max_drop=0.1, cost="macs").model
    agree = done.infer(X[64:]).outputs.argmax(1) == done(X[64:])[-1].argmax(1)
    assert float(agree.double().mean()) >= 0.9 - 1e-9


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({}, BudgetError),
        ({"max_drop": -0.1}, BudgetError),
        ({"max_drop": "1%"}, BudgetError),
        ({"latency_ms": 0.0}, BudgetError),
        ({"latency_ms": 1.0, "cost": "macs"}, StrategyError),
        ({"max_drop": 0.1, "cost": "watts"}, StrategyError),
        ({"max_drop": 0.1, "cost": "macs", "criterion": "mood"}, StrategyError),
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused(how, error):
    with pytest.raises(error):
        pj.calibrate_exits(network(), task(), **how)


@pytest.mark.parametrize("samples", [0, 1.5])
def test_a_number_of_samples_that_is_none_is_refused(samples):
    with pytest.raises(InputError, match="at least 1"):
        pj.calibrate_exits(network(), task(), max_drop=0.1, samples=samples)


def test_the_task_of_the_exits_does_not_calibrate_them():
    made = network()
    with pytest.raises(InputError, match="the task of the original network"):
        pj.calibrate_exits(made, made.task(task()), max_drop=0.1, cost="macs")


def test_a_task_that_calls_the_model_itself_does_not_calibrate():
    own = task(forward=lambda model, x: model(x).softmax(1))
    with pytest.raises(InputError, match="a forward of its own"):
        pj.calibrate_exits(network(), own, max_drop=0.1, cost="macs")


def test_a_network_without_exits_is_not_calibrated():
    with pytest.raises(InputError, match="has no exits"):
        pj.calibrate_exits(chain(), task(), max_drop=0.1)


def test_a_budget_below_the_first_exit_is_infeasible(trained):
    search = Calibration(Answers.of(trained, task()), (1.0, 2.0, 3.0), "confidence")
    with pytest.raises(InfeasibleError):
        search.within_cost(0.5)


@pytest.mark.parametrize("make", [network, lambda: network(freeze_trunk=True)])
def test_it_is_saved_and_loaded_without_pickle(tmp_path, make):
    made = make()
    made.policy = POLICIES[2]
    again = pj.load(pj.save(made, tmp_path / "net"))
    assert isinstance(again, EarlyExitNetwork)
    assert all(torch.equal(a, b) for a, b in zip(again(X), made(X), strict=True))
    assert (again.policy, again.frozen) == (made.policy, made.frozen)


def test_a_shared_layer_is_still_shared_after_loading(tmp_path):
    made = pj.early_exits(Masked().eval(), torch.ones(2, 7, dtype=torch.long), at=[0.5]).model
    again = pj.load(pj.save(made, tmp_path / "net"))
    assert again.segments[0].layer.weight is again.segments[1].layer.weight


def test_a_loaded_network_is_trained_on(tmp_path):
    again = pj.load(pj.save(network(), tmp_path / "net"))
    tuned = pj.train(again, again.task(task()), **{**QUICK, "epochs": 1}).model
    assert not torch.equal(tuned(X)[0], again(X)[0])


def test_a_damaged_description_is_refused(tmp_path):
    folder = pj.save(network(), tmp_path / "net")
    spec = folder / "spec.json"
    spec.write_text(spec.read_text().replace('"attachments"', '"places"'))
    with pytest.raises(CheckpointError, match="early exits"):
        pj.load(folder)


def test_its_own_class_cannot_hold_it(tmp_path):
    folder = pj.save(network(), tmp_path / "net")
    with pytest.raises(CheckpointError, match="without model="):
        pj.load(folder, model=chain())


@pytest.fixture(scope="module")
def quick():
    """Two exits on a network that is exported in a second, half of the samples leaving each."""
    made = pj.early_exits(deep(), VECTORS, exits=2).model
    generator = torch.Generator().manual_seed(0)
    for head in made.heads:  # heads that answer differently for different samples
        nn.init.normal_(head.weight, generator=generator)
        nn.init.zeros_(head.bias)
    made.policy = ExitPolicy(criterion="patience", thresholds=(NEVER, 2))
    return made


def test_stage_files_do_what_the_network_does(quick, tmp_path):
    write_stages(quick, VECTORS, tmp_path)
    wanted, done = quick.infer(VECTORS), StageRunner(tmp_path)(VECTORS.numpy())
    assert done.exits.tolist() == wanted.exits.tolist()
    assert len(set(done.exits.tolist())) > 1
    torch.testing.assert_close(done.outputs, wanted.outputs, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def exported(quick, tmp_path_factory):
    """A network in training mode, and the file that was written of it."""
    made = copy.deepcopy(quick).train()
    return made, pj.export(made, VECTORS, tmp_path_factory.mktemp("exits") / "net.onnx")


def test_one_file_with_conditions_does_what_the_network_does(quick, exported):
    import onnxruntime as ort

    _, written = exported
    session = ort.InferenceSession(written.path)
    wanted = quick.infer(VECTORS)
    for x, scores, exit_taken in zip(VECTORS, wanted.outputs, wanted.exits, strict=True):
        said, taken = session.run(None, {written.inputs[0]: x[None].numpy()})
        assert taken.tolist() == [int(exit_taken)]
        np.testing.assert_allclose(said[0], scores.numpy(), rtol=1e-4, atol=1e-5)


def sure():
    """A float16 network with an exit that is sure of many samples."""
    made = pj.early_exits(deep().half(), VECTORS.half(), exits=1).model
    with torch.no_grad():
        made.heads[0].weight.mul_(40)
    return made


@pytest.mark.parametrize("max_drop", [0.2, 0.4])
def test_in_float16_as_many_leave_as_were_calibrated(max_drop):
    made, x = sure(), VECTORS.half()
    judged = task(train=None, val=[(x, made.original()(x).argmax(1))])
    done = pj.calibrate_exits(made, judged, max_drop=max_drop, cost="macs")
    left = float((done.model.infer(x).exits == 0).double().mean())
    assert left == pytest.approx(done.report.data.exits[0].taken)


def test_a_float16_network_is_exported(tmp_path):
    written = pj.export(sure(), VECTORS.half(), tmp_path / "net.onnx")
    assert written.difference <= written.tolerance == 2e-2


def test_exits_before_a_norm_over_the_batch_are_refused():
    norm = nn.BatchNorm1d(8, track_running_stats=False)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), norm, nn.Linear(8, 3))
    with pytest.raises(InputError, match="others of its batch"):
        pj.early_exits(net.eval(), VECTORS, at=[0.4])


def test_a_head_of_ones_own_follows_the_dtype_of_the_network():
    def head(features, outputs):
        return nn.Linear(features.shape[1], outputs)

    made = pj.early_exits(deep().double(), VECTORS.double(), exits=1, head=head).model
    assert made(VECTORS.double())[0].dtype == torch.float64


def test_a_network_in_training_mode_is_exported_and_stays_in_it(exported):
    made, _ = exported
    assert all(module.training for module in made.modules())


class Named(nn.Module):
    """Two inputs, given by name in another order."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = deep()

    def forward(self, first, second):
        return self.layers(first - 2 * second)


def test_stage_files_of_a_network_called_by_names_take_any_batch(tmp_path):
    example = {"second": VECTORS[:4], "first": VECTORS[4:8]}
    made = pj.early_exits(Named().eval(), example, exits=1).model
    write_stages(made, example, tmp_path)
    done = StageRunner(tmp_path)(VECTORS.flip(0).numpy(), VECTORS.numpy())
    wanted = made.infer(second=VECTORS.flip(0), first=VECTORS).outputs
    torch.testing.assert_close(done.outputs, wanted, rtol=1e-4, atol=1e-5)


def test_a_calibration_measures_samples_one_by_one():
    made = pj.early_exits(deep(), VECTORS, exits=1).model
    labels = deep()(VECTORS).argmax(1)
    judged = task(train=None, val=[(VECTORS, labels)])
    done = pj.calibrate_exits(made, judged, max_drop=0.05, samples=8).report.data
    assert done.after.latency.n == 8
    assert done.after.latency.min_ms <= done.after.latency.mean_ms


def test_the_report_shows_who_leaves_where(trained, tmp_path):
    done = pj.calibrate_exits(trained, task(), max_drop=0.05, cost="macs")
    page = done.report.save(tmp_path / "exits.html").read_text().replace("<wbr>", "")
    assert "samples that leave" in page
    assert "blocks.2" in page


def test_integers_of_a_network_with_exits_say_that_no_input_leaves():
    notes = pj.quantize(network(), X[:1], calibration=[X]).report.data.notes
    assert "no input leaves early" in " ".join(notes)
