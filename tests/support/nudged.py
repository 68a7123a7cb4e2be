"""Every other entry of torch's float32 products, a unit in the last place larger: what another processor's BLAS may give.

A test that passes so compares values with a tolerance, and no index that rounding chose."""

import os

import torch

VARIABLE = "SAE_NUDGE_PRODUCTS"


def install():
    """For the rest of this process."""
    for owner, name in (
        (torch, "matmul"),
        (torch, "mm"),
        (torch.Tensor, "__matmul__"),
        (torch.Tensor, "matmul"),
        (torch.Tensor, "mm"),
        (torch.nn.functional, "linear"),
    ):
        setattr(owner, name, _nudging(getattr(owner, name)))


def _nudging(product):
    def nudged(*given, **options):
        found = product(*given, **options)
        if found.dtype == torch.float32 and found.device.type == "cpu" and found.numel():
            with torch.no_grad():
                entries = found.data.view(-1) if found.is_contiguous() else found.data.reshape(-1)[:0]
                entries[::2] = torch.nextafter(entries[::2], torch.full_like(entries[::2], torch.inf))
        return found

    return nudged


assert os.environ.get(VARIABLE) in (None, "", "1"), f"{VARIABLE} is 1 or nothing"
