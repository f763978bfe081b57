"""Resuming is exact for every optimizer, batches may be cut, and a bad loss keeps the last good state."""

import itertools
import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from sciml.errors import CheckpointError, ConfigError, NonFiniteLossError
from sciml.runtime import Runtime, seed_everything
from sciml.state import load_state, save_state, tensors_equal
from sciml.training import Trainer, TrainerOptions, TrainingInterrupted
from torch import nn

OPTIMIZERS = {
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2),
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9),
    "lbfgs": lambda model: torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4),
}


class Loader:
    """Noisy linear data, whose order is a function of the epoch."""

    def __init__(self, n: int = 22, batch_size: int = 5) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(n, 3, generator=generator)
        self.y = self.x.sin().sum(-1, keepdim=True)
        self.batch_size = batch_size

    def __len__(self):
        return -(-len(self.x) // self.batch_size)

    def batch_length(self, index):
        return min(self.batch_size, len(self.x) - index * self.batch_size)

    def batches(self, epoch, start=0, rank=0, world=1):
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(epoch))
        for chosen in order.split(self.batch_size)[start:]:
            mine = chosen[rank::world]
            yield {"x": self.x[mine], "y": self.y[mine]}


class StopAfter(Exception):
    pass


def noisy_loss(model, batch):
    noise = 0.01 * torch.rand(())  # so that the random state matters
    return {"fit": (model(batch["x"]) - batch["y"]).square().mean(), "noise": noise * model(batch["x"]).square().mean()}


def network() -> nn.Module:
    seed_everything(0)
    return nn.Sequential(nn.Linear(3, 17), nn.Tanh(), nn.Dropout(0.1), nn.Linear(17, 1))


def fit(directory: Path, optimizer="adamw", stop_at=None, loss=noisy_loss, **options):
    calls = itertools.count(1)

    def counted(model, batch):
        if stop_at is not None and next(calls) > stop_at:
            raise StopAfter
        return loss(model, batch)

    model = network()
    trainer = Trainer(TrainerOptions(**{"epochs": 3, "checkpoint_steps": 2, **options}), directory)
    result = trainer.fit(
        model,
        counted,
        Loader(),
        OPTIMIZERS[optimizer],
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 15),
        validation=Loader(7),
    )
    return model, result, (directory / "metrics.jsonl").read_text()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stop_at", [1, 4, 11, 13])
def test_resumed_training_equals_the_undisturbed_one_bitwise(tmp_path, optimizer, stop_at):
    options = {"optimizer": optimizer, "ema_decay": 0.9}
    model, result, log = fit(tmp_path / "whole", **options)
    with pytest.raises(StopAfter):
        fit(tmp_path / "parts", stop_at=stop_at, **options)
    resumed, again, resumed_log = fit(tmp_path / "parts", **options)
    assert tensors_equal(model.state_dict(), resumed.state_dict())
    assert (result.steps, result.best_loss) == (again.steps, again.best_loss)
    assert log == resumed_log


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    def loss(model, batch):
        model.eval()  # dropout draws another mask for another shape
        return (model(batch["x"]) - batch["y"]).square().mean()

    options = {"optimizer": "sgd", "loss": loss}
    whole, _, _ = fit(tmp_path / "1", **options)
    parts, _, _ = fit(tmp_path / "2", accumulate=2, **options)
    for a, b in zip(whole.parameters(), parts.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


class Careful(torch.optim.SGD):
    """Gradient descent that tells its steps, and refuses the fourth gradient."""

    steps = 0

    def step(self, closure=None):
        loss = closure()
        self.steps += 1
        if self.steps == 4:
            raise FloatingPointError("entry 3 is NaN")
        super().step()
        return loss

    def diagnostics(self):
        return {"steps": self.steps, "size": 0.5}


def test_gradients_that_an_optimizer_refuses_end_training_and_its_numbers_are_logged(tmp_path):
    model, trainer = network(), Trainer(TrainerOptions(epochs=3, checkpoint_steps=2), tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"the optimizer refuses the gradient \(entry 3 is NaN\) at step 4 "):
        trainer.fit(model, noisy_loss, Loader(), lambda m: Careful(m.parameters(), lr=1e-2))
    assert load_state(tmp_path / "last.safetensors")["step"] == 2
    records = [json.loads(line) for line in trainer.log.read_text().splitlines()]
    assert [record["optimizer"] for record in records] == [{"steps": k, "size": 0.5} for k in (1, 2, 3)]


def test_non_finite_loss_stops_and_keeps_the_last_good_state(tmp_path):
    calls = itertools.count(1)  # five batches and two of validation make the first epoch

    def loss(model, batch):
        return noisy_loss(model, batch)["fit"] * (float("nan") if next(calls) == 8 else 1.0)

    with pytest.raises(NonFiniteLossError, match=r"the loss is nan at step 6 \(epoch 2\)"):
        fit(tmp_path, loss=loss)
    state = load_state(tmp_path / "last.safetensors")
    assert state["step"] == 5
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def infinite_gradient(model, batch):
    """Finite itself: the root of zero, times zero."""
    return 0 * (0 * model(batch["x"])).abs().sum().sqrt() + 1.0


def test_weights_that_are_not_finite_are_neither_kept_nor_returned(tmp_path):
    calls = itertools.count(1)

    def loss(model, batch):
        return infinite_gradient(model, batch) if next(calls) == 8 else noisy_loss(model, batch)["fit"]

    with pytest.raises(NonFiniteLossError, match=r"parameter .* is not finite at step 6 .* last good state is in"):
        fit(tmp_path / "middle", loss=loss, checkpoint_steps=1)
    assert load_state(tmp_path / "middle" / "last.safetensors")["step"] == 5
    with pytest.raises(NonFiniteLossError, match=r"at step 1 .* No state had been written yet"):
        fit(tmp_path / "first", loss=infinite_gradient, checkpoint_steps=1)


def test_training_that_never_validates_finitely_fails(tmp_path):
    with pytest.raises(NonFiniteLossError, match="no epoch had a finite validation loss"):
        fit(tmp_path, loss=lambda m, b: (m(b["x"]) - b["y"]).square().mean() / (1.0 if m.training else 0.0))


def quadratic(model, batch):
    return (model.weight * batch["x"]).sum() / len(batch["x"])


def one_weight() -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    return model


class Ones(Loader):
    """Batches of 3, 3 and 1 ones, so that every gradient of `quadratic` is one."""

    def __init__(self, values=(1.0,) * 7):
        self.x = self.y = torch.tensor(values)[:, None]
        self.batch_size = 3

    def batches(self, epoch, start=0, rank=0, world=1):
        for part in self.x.split(3)[start:]:
            yield {"x": part}


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_the_moving_average_is_that_of_its_formula_and_is_what_is_validated_and_returned(tmp_path):
    model, seen = one_weight(), []

    def validation(model, batch):
        seen.append(float(model.weight.detach()))
        return quadratic(model, batch)

    options = TrainerOptions(epochs=1, ema_decay=0.75)
    Trainer(options, tmp_path).fit(model, quadratic, Ones(), sgd, validation=Ones(), validation_loss=validation)
    weight = mean = 1.0
    for _ in range(3):
        weight -= 0.1
        mean = 0.75 * mean + 0.25 * weight
    assert seen == pytest.approx([mean] * 3)
    assert float(model.weight) == pytest.approx(mean)


def test_clipping_bounds_the_length_of_a_step(tmp_path):
    model = one_weight()
    Trainer(TrainerOptions(epochs=1, clip_norm=0.5), tmp_path).fit(model, quadratic, Ones(), sgd)
    assert float(model.weight) == pytest.approx(1 - 3 * 0.1 * 0.5, rel=1e-5)


def test_validation_is_the_mean_over_samples_not_over_batches(tmp_path):
    model, values = one_weight(), (0.0,) * 6 + (7.0,)
    trainer = Trainer(TrainerOptions(epochs=1), tmp_path)
    result = trainer.fit(
        model, quadratic, Ones(), lambda m: torch.optim.SGD(m.parameters(), lr=0.0), validation=Ones(values)
    )
    assert result.best_loss == pytest.approx(1.0)


def test_reduce_on_plateau_sees_the_monitored_loss(tmp_path):
    made = []

    def scheduler(optimizer):
        made.append(optimizer)
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)

    loss = lambda m, b: 0 * m(b["x"]).sum() + 1.0  # noqa: E731
    trainer = Trainer(TrainerOptions(epochs=4, checkpoint_steps=2), tmp_path)
    trainer.fit(one_weight(), loss, Ones(), sgd, scheduler=scheduler)
    assert made[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)


def test_ctrl_c_in_the_last_validation_is_obeyed(tmp_path):
    def validation(model, batch):
        signal.raise_signal(signal.SIGINT)
        return quadratic(model, batch)

    options = TrainerOptions(epochs=1)
    with pytest.raises(TrainingInterrupted):
        Trainer(options, tmp_path).fit(
            one_weight(), quadratic, Ones(), sgd, validation=Ones((1.0,)), validation_loss=validation
        )
    assert load_state(tmp_path / "last.safetensors")["finished"]


def test_foreign_lines_of_the_log_are_left_alone(tmp_path):
    Trainer(TrainerOptions(epochs=1), tmp_path).fit(one_weight(), quadratic, Ones(), sgd)
    log = tmp_path / "metrics.jsonl"
    log.write_text(log.read_text() + '{"note": "of the user"}\n[1]\n')
    Trainer(TrainerOptions(epochs=2), tmp_path).fit(one_weight(), quadratic, Ones(), sgd)
    assert '{"note": "of the user"}\n[1]\n' in log.read_text()


@pytest.mark.parametrize("options", [{"patience": 0}, {"checkpoint_steps": 0}, {"accumulate": 0}, {"epochs": 0}])
def test_options_must_be_positive(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}=0 must be at least 1"):
        TrainerOptions(**{"epochs": 1, **options})


@pytest.mark.parametrize("value", [1.0, {}, torch.ones(2)])
def test_a_loss_is_a_scalar_or_named_ones(tmp_path, value):
    with pytest.raises(ConfigError, match="a loss returns a scalar tensor"):
        Trainer(TrainerOptions(epochs=1), tmp_path).fit(one_weight(), lambda m, b: value, Ones(), sgd)


def test_mixed_precision_is_for_single_precision(tmp_path):
    trainer = Trainer(TrainerOptions(epochs=1), tmp_path, runtime=Runtime("cpu", precision="bf16-mixed"))
    with pytest.raises(ConfigError, match="parameters of float64"):
        trainer.fit(one_weight().double(), quadratic, Ones(), sgd)
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    seen = []

    def loss(m, b):
        seen.append(m(b["x"]).dtype)
        return m(b["x"]).float().square().mean()

    trainer.fit(model, loss, Ones(), sgd)
    assert set(seen) == {torch.bfloat16}


def test_strategies_need_processes():
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node"):
        Runtime("cpu", "ddp")


def test_patience_stops_early(tmp_path):
    _, result, _ = fit(tmp_path, loss=lambda m, b: 0 * m(b["x"]).sum() + 1.0, patience=2, epochs=50)
    assert result.epochs == 3


def test_checkpoint_of_another_model_is_refused(tmp_path):
    fit(tmp_path)
    trainer = Trainer(TrainerOptions(epochs=3), tmp_path)
    with pytest.raises(CheckpointError, match="does not fit this training"):
        trainer.fit(nn.Linear(3, 1), noisy_loss, Loader(), OPTIMIZERS["adamw"])


def test_state_round_trip_keeps_types_and_bits(tmp_path):
    state = {
        "a": torch.randn(3),
        "b": (1, 2.5, None, [True, "x"]),
        "c": {0: {"d": torch.tensor(2)}},
        "inf": float("inf"),
    }
    save_state(tmp_path / "s", state)
    back = load_state(tmp_path / "s")
    assert torch.equal(back["a"], state["a"])
    assert back["b"] == state["b"]
    assert back["c"][0]["d"] == 2
    assert back["inf"] == float("inf")


def test_flipped_bits_in_a_state_are_found(tmp_path):
    path = tmp_path / "s"
    save_state(path, {"a": torch.randn(5), "n": 3})
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        path.write_bytes(good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :])
        with pytest.raises(CheckpointError):
            load_state(path)


def test_unserialisable_state_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"state\.optimizer\.x is a object"):
        save_state(tmp_path / "s", {"optimizer": {"x": object()}})


def test_state_of_an_adaptive_loss_survives_a_stop(tmp_path):
    from sciml.losses import ReLoBRaLo, WeightedSum

    def train(name, stop_at=None):
        calls = itertools.count(1)

        def error(model, batch):
            if next(calls) == stop_at:
                raise StopAfter
            return (model(batch["x"]) - batch["y"]).square().mean()

        terms = {"error": error, "size": lambda model, batch: model(batch["x"]).abs().mean()}
        loss = WeightedSum(terms, adaptive=ReLoBRaLo(alpha=0.5, lookback=0.5))
        model = network()
        options = TrainerOptions(epochs=3, checkpoint_steps=1)
        Trainer(options, tmp_path / name).fit(model, loss, Loader(), OPTIMIZERS["adamw"], validation=Loader(7))
        return model.state_dict()

    whole = train("whole")
    with pytest.raises(StopAfter):
        train("cut", stop_at=9)
    assert tensors_equal(whole, train("cut"))


def test_batches_too_small_for_the_processes_are_refused(tmp_path):
    trainer = Trainer(TrainerOptions(epochs=1), tmp_path)
    trainer.runtime = type("Many", (), {"world": 4})()
    with pytest.raises(ConfigError, match="a batch of 2 cannot be shared by 4 processes"):
        trainer.fit(network(), noisy_loss, Loader(), OPTIMIZERS["sgd"])


def test_metrics_go_to_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            self.folder, self.purge_step = folder, purge_step

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def close(self):
            written.append("closed")

    fake = type(sys)("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    fit(tmp_path, epochs=1)
    assert ("loss", 1) in written
    assert ("epoch_loss", 5) in written
    assert written[-1] == "closed"


@pytest.mark.slow
@pytest.mark.unchecked
def test_compiled_training_equals_eager_training(tmp_path):
    def quiet_loss(model, batch):
        return (model(batch["x"]) - batch["y"]).square().mean()

    weights = []
    for compile in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 17), nn.Tanh(), nn.Linear(17, 1)).double()
        loader = Loader()
        loader.x, loader.y = loader.x.double(), loader.y.double()
        runtime = Runtime("cpu", compile=compile)
        trainer = Trainer(TrainerOptions(epochs=2), tmp_path / str(compile), runtime=runtime)
        trainer.fit(model, quiet_loss, loader, OPTIMIZERS["adamw"])
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-10, atol=1e-12)
