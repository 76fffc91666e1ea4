from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sdwebui_api.sampling.schedules import SCHEDULES, Schedule, ScheduleContext
from sdwebui_api.sampling.sigma_table import LcmSigmaTable, SigmaTable, effective_alphas, rescale_zero_terminal_snr
from tests.sampling.fakes import alphas_cumprod

GOLDEN = Path(__file__).parents[1] / "golden" / "api"
TABLE = SigmaTable(alphas_cumprod())
LOW, HIGH = float(TABLE.sigmas[0]), float(TABLE.sigmas[-1])


def sigmas(name: str, steps: int, *, rho: float = 0.0, low: float = LOW, high: float = HIGH) -> torch.Tensor:
    row = next(row for row in SCHEDULES if row.name == name)
    return row.sigmas(steps, low, high, rho=rho, context=ScheduleContext(TABLE))


def test_rows_are_those_of_a1111() -> None:
    assert [row.row() for row in SCHEDULES] == json.loads((GOLDEN / "get-schedulers.json").read_text())["response"]


@pytest.mark.parametrize("row", SCHEDULES, ids=lambda row: row.name)
@pytest.mark.parametrize("steps", [1, 2, 11, 30])
def test_sigmas_fall(row: Schedule, steps: int) -> None:
    values = sigmas(row.name, steps)
    assert torch.isfinite(values).all() and values.dtype == torch.float32
    assert (values.diff() < 0).all()
    assert len(values) == steps + 1 or (row.name == "ddim" and len(values) > steps)
    assert values[-1] == pytest.approx(LOW, rel=1e-5) if row.name == "kl_optimal" else values[-1] == 0


def test_known_values() -> None:
    assert torch.allclose(sigmas("uniform", 10)[:10], TABLE.sigmas[::111].flip(0), rtol=1e-5)
    assert pytest.approx([14.615, 6.475, 3.861], rel=1e-4) == sigmas("align_your_steps", 11)[:3].tolist()
    assert sigmas("karras", 10)[:-1].log().diff().std() > sigmas("exponential", 10)[:-1].log().diff().std()


def test_range_and_rho() -> None:
    values = sigmas("karras", 8, rho=5.0, low=0.1, high=10.0)
    assert values[0] == pytest.approx(10.0) and values[-2] == pytest.approx(0.1, rel=1e-4)
    assert values[3] == pytest.approx((10**0.2 + 3 / 7 * (0.1**0.2 - 10**0.2)) ** 5, rel=1e-4)


def test_timestep_and_sigma_are_inverse() -> None:
    t = torch.tensor([0.0, 1.25, 500.5, 999.0])
    assert torch.allclose(TABLE.sigma_to_t(TABLE.t_to_sigma(t)), t, atol=1e-2)
    quantized = SigmaTable(alphas_cumprod(), quantize=True)
    assert quantized.sigma_to_t(TABLE.t_to_sigma(torch.tensor([500.4]))).tolist() == [500]


def test_zero_terminal_snr() -> None:
    alphas = rescale_zero_terminal_snr(alphas_cumprod())
    assert alphas[0] == pytest.approx(float(alphas_cumprod()[0])) and alphas[-1] < 1e-7
    assert torch.equal(effective_alphas(alphas_cumprod(), noise_schedule="Zero Terminal SNR"), alphas)
    assert effective_alphas(alphas_cumprod(), downcast=True).dtype == torch.float16


def test_lcm_knows_fifty_timesteps() -> None:
    table = LcmSigmaTable(alphas_cumprod())
    assert len(table.sigmas) == 50
    assert table.sigma_to_t(table.sigmas[[0, -1]]).tolist() == [19, 999]
    assert torch.allclose(table.evenly_spaced(4)[[0, 3]], table.sigmas[[-1, 0]])
