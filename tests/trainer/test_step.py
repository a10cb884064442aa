"""The gradient of a step is that of the mean over its pictures, whichever way they pass through the miniature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trainer.pocket_trials import TRAIN, make_job, make_session
from tests.trainer.small_datasets import put
from trainer.config import DrawnDataset, TrainConfig
from trainer.drawn import ensure_drawn_dataset
from trainer.exposure import Batch, Exposure, epoch_generator
from trainer.memory import Economy, arrange, compile_blocks
from trainer.noise import draw, loss_weights
from trainer.session import Session
from trainer.step import Outcome, StepMaker
from trainer.team import Team

UNEVEN: tuple[Batch, ...] = (
    (Exposure(0, 0), Exposure(1, 1)),
    (Exposure(2, 2), Exposure(0, 3)),
    (Exposure(3, 4),),
)
"""Five exposures in micro-batches of two."""


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("step")
    ensure_drawn_dataset(root / "people", DrawnDataset(solo=1, pair=0, trio=0))
    put(root / "street", "street", "an empty street", size=(96, 64), colour="grey")
    return root


def session(roots: Path, study: Path, **train: object) -> Session:
    """A session whose adapter is not at its start, where half of the gradients would be zero."""
    config = TrainConfig.model_validate(TRAIN.model_dump() | train)
    folders = [{"path": "people"}, {"path": "street", "role": "regularisation"}]
    made = make_session(make_job(study, roots, config, folders=folders))
    generator = torch.Generator().manual_seed(1)
    values = tuple(0.05 * torch.randn(p.shape, generator=generator) for p in made.adaptation.parameters)
    made.adaptation.set(values)
    return made


def run(made: Session, economy: Economy, team: Team | None = None) -> tuple[Outcome, list[Tensor]]:
    """The outcome and gradients of a step over UNEVEN."""
    arrange(made.base, economy)
    maker = StepMaker(made.base, made._latents, made._text, made.job.train, team or Team(), made._show, economy.micro)
    outcome = maker.gradients(UNEVEN, epoch_generator(0, 1))
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in made.adaptation.parameters]
    for parameter in made.adaptation.parameters:
        parameter.grad = None
    return outcome, gradients


def close(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    scale = max(float(t.abs().max()) for t in a)
    return all(float((x - y).abs().max()) < 1e-4 * scale for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_micro_batches_that_pass_together_give_the_same_step(roots: Path, tmp_path: Path, checkpointing: bool) -> None:
    made, passes = session(roots, tmp_path), list[int]()
    made.base.transformer.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    apart, slowly = run(made, Economy(1, False))
    together, quickly = run(made, Economy(4, checkpointing))
    assert passes == [1, 1, 1, 1, 1, 4, 1]
    assert torch.allclose(together.errors, apart.errors, rtol=1e-4)
    assert float(together.loss) == pytest.approx(float(apart.loss), rel=1e-5)
    assert close(slowly, quickly)


def test_the_loss_is_the_mean_over_pictures_not_over_batches(roots: Path, tmp_path: Path) -> None:
    outcome, _ = run(session(roots, tmp_path), Economy(2, False))
    assert outcome.errors.shape == (5,)
    assert float(outcome.loss) == pytest.approx(float(outcome.errors.mean()), rel=1e-5)
    by_batches = (outcome.errors[:2].mean() + outcome.errors[2:4].mean() + outcome.errors[4]) / 3
    assert abs(float(by_batches) - float(outcome.loss)) > 1e-3 * float(outcome.loss)


def test_passing_one_by_one_gives_the_same_gradient(roots: Path, tmp_path: Path) -> None:
    made = session(roots, tmp_path)
    whole, halved = run(made, Economy(2, False)), run(made, Economy(1, False))
    assert torch.allclose(whole[0].errors, halved[0].errors, rtol=1e-4)
    assert close(whole[1], halved[1])


def test_computing_activations_again_changes_no_bit(roots: Path, tmp_path: Path) -> None:
    made = session(roots, tmp_path)
    kept, again = run(made, Economy(2, False)), run(made, Economy(2, True))
    assert all(torch.equal(a, b) for a, b in zip(kept[1], again[1], strict=True))


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_a_teams_shares_add_up_to_the_whole(roots: Path, tmp_path: Path, size: int) -> None:
    made = session(roots, tmp_path)
    alone, parts = run(made, Economy(2, False)), [run(made, Economy(2, False), Team(r, size)) for r in range(size)]
    assert torch.allclose(sum((o.errors for o, _ in parts), torch.zeros(5)), alone[0].errors, rtol=1e-4)
    assert float(sum(float(o.loss) for o, _ in parts)) == pytest.approx(float(alone[0].loss), rel=1e-5)
    assert close(alone[1], [torch.stack(shares).sum(dim=0) for shares in zip(*(g for _, g in parts), strict=True)])


def test_weights_scale_each_pictures_part(roots: Path, tmp_path: Path) -> None:
    """Exposure 4 shows the street, a regularisation picture."""
    config = {"loss_weighting": "min_snr", "regularisation_weight": 0.25}
    outcome, _ = run(session(roots, tmp_path, **config), Economy(2, False))
    generator, sigmas = epoch_generator(0, 1), []
    for part in UNEVEN:
        sigmas.append(draw(torch.Size((len(part), 8, 1, 16, 24)), generator, TRAIN).sigmas)
    weights = loss_weights(torch.cat(sigmas), "min_snr") * torch.tensor([1, 1, 1, 1, 0.25])
    assert float(outcome.loss) == pytest.approx(float((weights * outcome.errors).mean()), rel=1e-4)


# torch looks at an attribute of its own tensors while it traces, and warns itself about that.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_blocks_compute_the_same(roots: Path, tmp_path: Path) -> None:
    """Traced and differentiated as for the real compiler, but run as plain torch: compiling takes minutes."""
    made = session(roots, tmp_path)
    plain = run(made, Economy(1, False))
    compile_blocks(made.base.transformer, backend="aot_eager")
    assert close(plain[1], run(made, Economy(1, False))[1])
