"""Labels of machines: what `nvidia-smi` says becomes a family, and the YAML asks for nothing that is no label."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from infra.config import ClusterConfig
from infra.labels import gpu_family, labels_of, this_machine


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000-ada"),
        ("Quadro RTX 6000", "rtx6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-blackwell-server-edition"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L40S", "l40s"),
        ("", "unknown"),
    ],
)
def test_a_family_is_what_chips_of_one_kind_have_in_common(name: str, family: str) -> None:
    assert gpu_family(name) == family


def test_a_machine_says_its_gpu_capability_memory_and_pod() -> None:
    listing = "NVIDIA GeForce RTX 5090, 12.0, 32607\nNVIDIA GeForce RTX 5090, 12.0, 32607\n"
    assert labels_of(listing, "pod/1") == {"gpu": "rtx5090", "sm": "120", "memory_gb": "32", "pod": "pod-1"}
    assert labels_of("", "laptop") == {"gpu": "none", "pod": "laptop"}
    assert labels_of("NVIDIA H100, 9.0, [N/A]", "x")["gpu"] == "h100"


def test_this_machine_has_labels_that_ray_takes() -> None:
    for name, value in this_machine().items():
        assert re.fullmatch(r"[a-z_]+", name)
        assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", value)


@pytest.mark.parametrize("labels", [{"gpu": "h100"}, {"gpu": "in(h100, b200)"}, {"gpu": "!in(rtx4090)"}, {}])
def test_a_yaml_may_prefer_labels(labels: dict[str, str]) -> None:
    assert ClusterConfig.model_validate({"train_on": [labels]}).train_on == (labels,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_on": [{"gpu": "h100; rm"}]},
        {"draw_on": [{"": "x"}]},
        {"draw_on": [{"gpu": "in()"}]},
        {"address": "ray://x"},
        {"address": "host"},
        {"inference_actors": 0},
        {"inference_actors": "many"},
    ],
)
def test_what_is_no_label_or_address_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ClusterConfig.model_validate(wrong)


@pytest.mark.parametrize("address", ["", "127.0.0.1:6379", "pod-1.runpod.internal:6379", "[::1]:6379"])
def test_an_address_names_host_and_port(address: str) -> None:
    assert ClusterConfig(address=address).address == address
