from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from alexnet_model import Contract
from alexnet_model.errors import UsageError
from alexnet_training import RECIPES, TrainingOptions
from alexnet_training.augmentation import mixup
from alexnet_training.recipes import digits, modern, paper_2012, plateau_drops
from alexnet_training.start import Start
from alexnet_training.state import MovingAverage


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_documented_and_gives_its_name_epochs_and_batch_size(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert RECIPES[name].__doc__
    options = TrainingOptions(recipe=name)
    assert options.epochs_or_default == recipe.epochs
    assert options.batch_size_or_default == recipe.batch_size
    assert TrainingOptions(recipe=name, weights="w.pth").epochs_or_default == recipe.fine_tuning_epochs
    options = TrainingOptions(recipe=name, epochs=3, batch_size=5)
    assert (options.epochs_or_default, options.batch_size_or_default) == (3, 5)


def test_an_unknown_recipe_is_one_line_with_the_nearest() -> None:
    with pytest.raises(UsageError) as refused:
        TrainingOptions(recipe="paper2012")
    assert str(refused.value) == (
        "recipe: got 'paper2012', expected one of digits, paper-2012, modern. Did you mean paper-2012?"
    )


@pytest.mark.parametrize("recipe", [digits(), modern()], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("steps", [1, 2, 7, 160, 10_000])
def test_the_learning_rate_rises_to_its_highest_value_and_falls_almost_to_zero(
    recipe: object, steps: int
) -> None:
    assert isinstance(recipe, type(digits()))
    factors = [recipe.learning_rate_factor(step, steps) for step in range(steps)]
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert max(factors) == pytest.approx(1)
    assert min(factors) > 0
    assert top <= max(1, recipe.warm_up * steps)
    assert factors[-1] <= max(1.2 / (0.9 * steps), 0.5) or steps == 1


def test_a_cosine_is_above_the_line_first_and_below_it_at_the_end() -> None:
    line = dataclasses.replace(modern(), schedule="linear")
    early, late = 2_000, 8_000
    assert modern().learning_rate_factor(early, 10_000) > line.learning_rate_factor(early, 10_000)
    assert modern().learning_rate_factor(late, 10_000) < line.learning_rate_factor(late, 10_000)


def test_a_plateau_divides_the_rate_by_ten_after_epochs_without_a_new_best_at_most_three_times() -> None:
    assert plateau_drops([], 2) == 0
    assert plateau_drops([0.1, 0.2, 0.2], 2) == 0
    assert plateau_drops([0.1, 0.2, 0.2, 0.15], 2) == 1
    assert plateau_drops([0.1, 0.2, 0.2, 0.15, 0.3, 0.2], 2) == 1
    assert plateau_drops([0.1, 0.2, 0.2, 0.15, 0.3, 0.2, 0.1], 2) == 2
    assert plateau_drops([0.5] * 50, 2) == 3
    rate = paper_2012().learning_rate_factor(700, 1000, [0.5] + [0.4] * paper_2012().patience)
    assert rate == pytest.approx(0.1)


def start_of_small_network() -> Start:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    return Start(network=network, architecture="small", options={}, contract=Contract(), learning_rate=0.25)


def test_the_papers_optimiser_is_sgd_with_momentum_and_decay_of_every_weight() -> None:
    optimiser = start_of_small_network().optimiser(paper_2012())
    assert isinstance(optimiser, torch.optim.SGD)
    (group,) = optimiser.param_groups
    assert (group["momentum"], group["weight_decay"], group["peak_learning_rate"]) == (0.9, 5e-4, 0.25)
    assert len(group["params"]) == 6
    assert group["fused"]


def test_the_modern_optimiser_is_adamw_and_does_not_decay_biases_and_norms() -> None:
    optimiser = start_of_small_network().optimiser(modern())
    assert isinstance(optimiser, torch.optim.AdamW)
    decayed, kept = optimiser.param_groups
    assert [p.dim() for p in decayed["params"]] == [4, 2]
    assert {p.dim() for p in kept["params"]} == {1}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (modern().weight_decay, 0)


def test_mixup_adds_a_part_of_another_image_of_the_batch() -> None:
    torch.manual_seed(0)
    images = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 2, 2, 3)
    shares = []
    for _ in range(50):
        mixed = mixup(images, 0.2)
        shares.append(mixed.share)
        expected = mixed.share * images + (1 - mixed.share) * images[mixed.partners]
        torch.testing.assert_close(mixed.images, expected)
        assert sorted(mixed.partners.tolist()) == list(range(6))
    assert min(shares) >= 0.5
    assert min(shares) < 0.7
    assert max(shares) > 0.95


def test_a_moving_average_follows_weights_and_copies_counters() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(network[0].weight, 0.0)  # type: ignore[arg-type]
    average = MovingAverage(network, decay=0.9)
    nn.init.constant_(network[0].weight, 1.0)  # type: ignore[arg-type]
    network.state_dict()["1.num_batches_tracked"].fill_(7)
    average.update(network, step=0)  # the first steps have a smaller decay, 0.1
    weights = average.network.state_dict()
    assert weights["0.weight"].item() == pytest.approx(0.9)
    assert weights["1.num_batches_tracked"].item() == 7
    average.update(network, step=10_000)
    assert average.network.state_dict()["0.weight"].item() == pytest.approx(0.9 * 0.9 + 0.1)
    assert not any(p.requires_grad for p in average.network.parameters())
