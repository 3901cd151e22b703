"""Sparse training in the loops of Lightning and transformers."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from penjing.errors import CheckpointError, InputError
from penjing.sparse_training import Gradual, Movement, Wish, for_lightning, for_trainer
from penjing.sparse_training._following import share

X = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
Y = (X.sum(1) > 0).long()
METHOD = Gradual(schedule=0.75, every=0.05)


class Net(nn.Module):
    """Answers as the trainer of transformers wants it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inside, self.middle = nn.Linear(8, 16), nn.Linear(16, 16)
        self.outside = nn.Linear(16, 2)

    def forward(self, x, labels=None):
        scores = self.outside(F.relu(self.middle(F.relu(self.inside(x)))))
        return {"logits": scores} if labels is None else {"loss": F.cross_entropy(scores, labels)}


def wish(method=METHOD, **more):
    return Wish(method=method, example_inputs={"x": X[:1]}, **more)


def middle_zeros(model):
    return float((model.middle.weight == 0).float().mean())


def masks_left(model):
    """Names beyond those of the network: parametrizations, buffers, hooks."""
    extra = set(model.state_dict()) - set(Net().state_dict())
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    return [*extra, *hooks]


def by_transformers(folder, callback, model, steps=24, resume=None):
    import transformers

    data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=0.01,
        weight_decay=0.01,
        save_steps=12,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
        dataloader_pin_memory=False,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback])
    trainer.train(resume_from_checkpoint=resume)


@pytest.fixture
def trainer():
    """The training function of transformers, or a skip."""
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="the trainer of transformers needs accelerate")
    return by_transformers


@pytest.mark.filterwarnings("ignore")  # the trainer's own
@pytest.mark.parametrize("method", [METHOD, Movement(schedule=0.75)], ids=["gradual", "movement"])
def test_the_trainer_of_transformers_ends_with_the_zeros_and_without_masks(
    tmp_path, trainer, method
):
    model, callback = Net(), for_trainer(wish(method))
    trainer(tmp_path, callback, model)
    assert (middle_zeros(model), callback.sparsity, masks_left(model)) == (0.75, 0.75, [])


@pytest.mark.filterwarnings("ignore")  # the trainer's own
def test_a_resumed_trainer_ends_with_the_same_network(tmp_path, trainer):
    whole, again = Net(), Net()
    trainer(tmp_path, for_trainer(wish(Movement(schedule=0.75))), whole)
    half = str(tmp_path / "checkpoint-12")
    trainer(tmp_path, for_trainer(wish(Movement(schedule=0.75))), again, resume=half)
    assert torch.allclose(whole.middle.weight, again.middle.weight, atol=1e-6)


def test_a_resumed_trainer_without_the_state_of_the_zeros_is_refused(tmp_path):
    pytest.importorskip("transformers")
    callback = for_trainer(wish())
    arguments, state = SimpleNamespace(output_dir=tmp_path), SimpleNamespace(global_step=12)
    with pytest.raises(CheckpointError, match="goes on from step 12"):
        callback.on_train_begin(arguments, state, None, model=Net())


def by_lightning(folder, callback, net, checkpoint=None, epochs=6):
    lightning = pytest.importorskip("lightning.pytorch")

    class Learner(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def training_step(self, batch, _index):
            return self.net(batch[0], batch[1])["loss"]

        def configure_optimizers(self):
            return torch.optim.AdamW(self.net.parameters(), 0.01)

    trainer = lightning.Trainer(
        max_epochs=epochs,
        accumulate_grad_batches=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
        callbacks=[callback],
    )
    loader = DataLoader(TensorDataset(X, Y), 4)
    trainer.fit(Learner(), loader, ckpt_path=checkpoint)
    return trainer


@pytest.mark.filterwarnings("ignore")  # the trainer's own
def test_lightning_ends_with_the_zeros_and_without_masks(tmp_path):
    net = Net()
    callback = for_lightning(wish(model=net)) if _lightning() else None
    by_lightning(tmp_path, callback, net)
    assert (middle_zeros(net), callback.sparsity, masks_left(net)) == (0.75, 0.75, [])


@pytest.mark.filterwarnings("ignore")  # the trainer's own
def test_a_network_that_lightning_does_not_train_is_refused(tmp_path):
    callback = for_lightning(wish(model=Net())) if _lightning() else None
    with pytest.raises(InputError, match="no part of the Learner"):
        by_lightning(tmp_path, callback, copy.deepcopy(Net()))


def test_a_run_without_an_end_is_refused():
    with pytest.raises(InputError, match="max_steps"):
        share(3, float("inf"))


def _lightning():
    return pytest.importorskip("lightning.pytorch")
