import random

import numpy as np
import pytest
import torch
from sciml.errors import ConfigError
from symplectic_opt.problems import (
    CIFAR10,
    MNIST1D,
    DataFitting,
    Digits,
    FashionMNIST,
    MultiLabel,
    SO3Dynamics,
    Weather,
)
from symplectic_opt.problems.multilabel import tfidf
from symplectic_opt.problems.so3 import INERTIA, energy

WITH_DATA = [
    DataFitting(),
    Digits(),
    MNIST1D(),
    MultiLabel(documents=200, words=30, labels=5),
    Weather(),
    Weather(series="synthetic"),
]
with_data = pytest.mark.parametrize("problem", WITH_DATA, ids=repr)


@pytest.mark.parametrize(
    ("problem", "count"),
    [
        (DataFitting(), 4355),
        (FashionMNIST(), 55050),
        (CIFAR10(), 62006),
        (Weather(), 5281),
        (Weather(series="synthetic"), 5281),
        (Digits(), 8970),
        (MNIST1D(), 7434),
    ],
    ids=repr,
)
def test_networks_have_the_published_number_of_parameters(problem, count):
    assert sum(p.numel() for p in problem.network().parameters()) == count


@with_data
def test_shapes_fit_and_one_gradient_step_lowers_the_loss(problem):
    data, network = problem.data(), problem.network()
    assert len(data.train_input) == len(data.train_target)
    assert len(data.test_input) == len(data.test_target)
    x, y = data.train_input[:32], data.train_target[:32]
    before = problem.loss(network(x), y)
    before.backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    with torch.no_grad():
        norm = torch.stack([p.grad.square().sum() for p in network.parameters()]).sum().sqrt()
        for p in network.parameters():
            p -= 1e-3 / norm * p.grad
        assert problem.loss(network(x), y) < before
        assert all(
            np.isfinite(v) for v in problem.metrics(network(data.test_input[:32]), data.test_target[:32]).values()
        )


@with_data
def test_weights_depend_on_the_seed_alone(problem):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = problem.network(1), problem.network(1), problem.network(2)
    assert torch.equal(torch.rand(3), expected)
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


@with_data
def test_samples_are_rows_of_the_training_data(problem):
    samples, data = problem.generate(40, seed=3), problem.data()
    index = torch.from_numpy(samples["index"].values)
    assert torch.equal(torch.from_numpy(samples["input"].values), data.train_input[index])
    assert torch.equal(torch.from_numpy(samples["target"].values), data.train_target[index])
    assert index.max() >= len(data.train_input) / 2


@pytest.mark.parametrize("problem", WITH_DATA[:4], ids=repr)
def test_no_sample_is_both_for_training_and_test(problem):
    data = problem.data()
    rows = torch.cat([data.train_input, data.test_input])
    # equal documents of few words do occur
    assert len(rows.unique(dim=0)) >= 0.99 * len(rows)


def test_values_to_fit_have_the_published_noise():
    data = DataFitting().data()
    x = data.train_input.double()
    assert x[0] == -2
    assert x[-1] == 2
    assert len(x) == 500
    noise = data.train_target.double() - (10 * x * (2 * x).cos().abs() + 10 * (-x.sin()).exp())
    assert noise.std().item() == pytest.approx(0.2, rel=0.1)
    assert abs(noise.mean().item()) < 0.03
    assert not torch.equal(DataFitting(seed=1).data().train_target, data.train_target)


def test_first_layer_of_the_fit_is_linear():
    network = DataFitting().network()
    assert [type(layer).__name__ for layer in network] == ["Linear", "Linear", "ReLU", "Linear", "ReLU", "Linear"]


def test_digits_are_split_evenly():
    data = Digits().data()
    assert len(data.train_input) + len(data.test_input) == 1797
    assert data.train_input.mean(0).abs().max() < 1e-6
    spread = data.train_input.var(0, correction=0)
    assert bool(((spread - 1).abs() < 1e-5).logical_or(spread == 0).all())
    assert 0.01 < (data.test_input.mean(0).abs().max()) < 0.5, "the test part is not what they are standardised by"
    share = data.test_target.bincount() / (data.test_target.bincount() + data.train_target.bincount())
    assert bool(((share - 0.2).abs() < 0.01).all())


def test_curves_are_made_without_touching_the_global_generators():
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    data = MNIST1D(seed=9).data()
    assert (random.random(), np.random.random()) == expected
    assert data.train_input.shape == (4000, 40)
    assert data.test_input.shape == (1000, 40)
    assert not torch.equal(data.train_input, MNIST1D().data().train_input)


def test_classes_are_learnt_from_few_digits():
    problem, data = Digits(), Digits().data()
    network = problem.network()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        problem.loss(network(data.train_input), data.train_target).backward()
        optimizer.step()
    assert problem.metrics(network(data.test_input), data.test_target)["accuracy"] > 0.9


def test_f1_counts_over_all_labels():
    output = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    target = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    assert MultiLabel().metrics(output, target) == {"f1": pytest.approx(2 * 2 / (3 + 3))}
    assert MultiLabel().metrics(-output.abs(), 0 * target) == {"f1": 1.0}


def test_word_weights_are_those_of_scikit_learn():
    counts = np.random.default_rng(0).poisson(0.3, (30, 12))
    counts[4] = 0
    from sklearn.feature_extraction.text import TfidfTransformer

    np.testing.assert_allclose(tfidf(counts), TfidfTransformer().fit_transform(counts).toarray(), atol=1e-15)


@pytest.mark.parametrize("series", ["seattle", "synthetic"])
def test_windows_see_the_past_and_targets_lie_ahead(series):
    data, split = Weather(series=series).data(), int(0.715 * (8759 if series == "seattle" else 8760))
    assert data.train_input.shape == (split - 792, 120, 7)
    assert data.test_input.shape[1:] == (120, 7)
    # the target of window k is row k + 792 of the series, which window k + 792 sees first
    assert torch.equal(data.train_target[:-792, 0], data.train_input[792:, 0, 0])
    assert torch.equal(data.train_input[6, :-1], data.train_input[0, 1:])
    rows = torch.cat([data.train_input[:, 0, 0], data.train_target[-792:, 0]])
    assert len(rows) == split
    assert rows.mean().item() == pytest.approx(0, abs=1e-4)
    assert rows.std().item() == pytest.approx(1, abs=1e-3)


def test_windows_are_views_of_the_series():
    windows = Weather().data().train_input
    assert windows.untyped_storage().nbytes() < windows.numel() * 4 / 10


def test_augmented_images_are_moved_and_flipped():
    images = torch.rand(200, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    changed = CIFAR10().augment(images, torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    seen = set()
    for image, frame in zip(changed, padded, strict=True):
        crops = {
            (top, left, flip): crop.flip(-1) if flip else crop
            for top in range(9)
            for left in range(9)
            for crop in [frame[:, top : top + 32, left : left + 32]]
            for flip in (False, True)
        }
        seen |= {key for key, crop in crops.items() if torch.equal(crop, image)}
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(9))
    assert {flip for _, _, flip in seen} == {True, False}
    assert len(seen) > 100


def test_data_are_not_augmented_elsewhere():
    x = Digits().data().train_input
    assert Digits().augment(x, torch.Generator()) is x


def test_invariants_of_the_rigid_pendulum():
    data = SO3Dynamics().generate(6, seed=1)
    R, omega = data.attitude.values, data.angular_velocity.values
    np.testing.assert_allclose(R @ R.swapaxes(-1, -2), np.broadcast_to(np.eye(3), R.shape), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=1e-9)
    H = energy(R, omega)
    np.testing.assert_allclose(H, H[:, :1].repeat(H.shape[1], 1), atol=1e-8)
    np.testing.assert_array_equal(H, data.energy)
    vertical = np.einsum("...j,...j->...", R[..., 2, :], omega @ INERTIA)
    np.testing.assert_allclose(vertical, vertical[:, :1].repeat(vertical.shape[1], 1), atol=1e-8)
    assert np.ptp(R, axis=1).max() > 0.5


def test_attitudes_turn_with_the_angular_velocity():
    data = SO3Dynamics(duration=0.02, time_step=0.01).generate(3)
    R, omega = data.attitude.values, data.angular_velocity.values
    x, y, z = np.moveaxis(omega[:, 1], -1, 0)
    o = np.zeros(3)
    hat = np.array([[o, -z, y], [z, o, -x], [-y, x, o]]).transpose(2, 0, 1)
    np.testing.assert_allclose((R[:, 2] - R[:, 0]) / 0.02, R[:, 1] @ hat, atol=3e-3)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataFitting(seed=-1), "seed=-1"),
        (lambda: Digits(seed=-1), "seed=-1"),
        (lambda: MNIST1D(seed=-1), "seed=-1"),
        (lambda: MultiLabel(labels=0), "labels=0"),
        (lambda: SO3Dynamics(duration=0.25), "whole number of steps"),
        (lambda: SO3Dynamics(time_step=0), "time_step=0"),
    ],
)
def test_fields_out_of_range(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
