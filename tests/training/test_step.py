"""One optimisation step against the loop that it replaces."""

import pytest
import torch
from torch import nn

from flowshield.training.flat_parameters import FlatParameters
from flowshield.training.step import GraphedStep, TrainingStep

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Net(nn.Module):
    """A small network with an unused and a frozen parameter."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)

    def forward(self, x, y):
        return (self.body(x) - y).square().mean()


def net(device="cpu", dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().to(device, dtype)


def data(device="cpu", dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 3, generator=generator, dtype=torch.float64)
    return x.to(device, dtype), x.sum(dim=1, keepdim=True).sin().to(device, dtype)


def make(module, optimizer, *, clip=None, averaged=None, decay=None, table=None):
    x, y = table or data()
    parameters = FlatParameters(module)
    return TrainingStep(
        module,
        lambda indices: (x[indices], y[indices]),
        parameters,
        optimizer(parameters.vector),
        gradient_clip=clip,
        averaged=averaged,
        ema_decay=decay,
    )


def batches(n, device="cpu"):
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(64, (16,), generator=generator).to(device) for _ in range(n)]


def sgd(vector):
    return torch.optim.SGD([vector], lr=1.0)


def adamw(vector):
    return torch.optim.AdamW([vector], lr=0.01, weight_decay=0.1, fused=True)


def test_takes_the_same_steps_as_the_textbook_loop():
    flat, plain = net(), net()
    step = make(flat, adamw, clip=0.5)
    used = [p for p in plain.parameters() if p.requires_grad]
    plain.unused.grad = torch.zeros_like(plain.unused)  # no gradient counts as zero
    optimizer = torch.optim.AdamW(used, lr=0.01, weight_decay=0.1)
    x, y = data()
    losses, norms = [], []
    for indices in batches(20):
        step(indices)
        optimizer.zero_grad(set_to_none=False)
        loss = plain(x[indices], y[indices])
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(used, 0.5))
        optimizer.step()
        losses.append(loss.detach())
    for ours, theirs in zip(flat.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.equal(flat.frozen, torch.ones(4, dtype=torch.float64))
    loss_sum, norm_sum = step.take_sums()
    torch.testing.assert_close(loss_sum.double(), sum(losses))
    torch.testing.assert_close(norm_sum.double(), sum(norms))
    assert [float(value) for value in step.take_sums()] == [0.0, 0.0]


def test_no_gradient_is_left_over_for_the_next_step():
    """Stepping twice on one batch from the same weights moves them by the same amount."""
    module = net()
    step = make(module, sgd)
    start = step.parameters.vector.detach().clone()
    moves = []
    for _ in range(2):
        step.parameters.vector.detach().copy_(start)
        step(batches(1)[0])
        moves.append(step.parameters.vector.detach() - start)
    assert torch.equal(*moves)


@pytest.mark.parametrize("clip", [0.01, 1e6, None])
def test_clipping_limits_the_gradients_norm_and_keeps_its_direction(clip):
    step, free = make(net(), sgd, clip=clip), make(net(), sgd)
    start = free.parameters.vector.detach().clone()
    step(batches(1)[0])
    free(batches(1)[0])
    gradient = start - free.parameters.vector.detach()
    moved = start - step.parameters.vector.detach()
    share = 1.0 if clip is None else min(1.0, clip / float(gradient.norm()))
    torch.testing.assert_close(moved, share * gradient, rtol=1e-4, atol=1e-12)
    reported = float(step.take_sums()[1])
    assert reported == pytest.approx(float(gradient.norm()))


def test_the_moving_average_has_its_closed_form():
    decay, module = 0.8, net()
    average = torch.cat([p.detach().flatten() for p in module.parameters() if p.requires_grad])
    step = make(module, adamw, averaged=average, decay=decay)
    weights = [average.clone()]
    for indices in batches(9):
        step(indices)
        weights.append(step.parameters.vector.detach().clone())
    expected = decay**9 * weights[0] + sum(
        (1 - decay) * decay ** (9 - k) * weights[k] for k in range(1, 10)
    )
    torch.testing.assert_close(average, expected)


def test_a_step_never_waits_for_the_device(monkeypatch):
    average = FlatParameters(net()).vector.detach()
    step = make(net(), adamw, clip=1.0, averaged=average, decay=0.9)
    before = step.parameters.vector.detach().clone()

    def refuse(*_):
        raise AssertionError("the host waits for the device")

    with monkeypatch.context() as patched:
        names = ("item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__index__")
        for name in (*names, "__array__", "nonzero"):
            patched.setattr(torch.Tensor, name, refuse)
        with pytest.raises(AssertionError, match="waits"):
            float(before.sum())
        for indices in batches(3):
            step(indices)
    assert not torch.equal(step.parameters.vector, before)


def test_flat_parameters_are_the_modules_until_they_are_released():
    module, untouched = net(), net()
    flat = FlatParameters(module)
    for name, value in untouched.state_dict().items():
        assert torch.equal(module.state_dict()[name], value)
    with torch.no_grad():
        flat.vector.fill_(7.0)
        assert all((p == 7).all() for p in module.parameters() if p.requires_grad)
        module.load_state_dict(untouched.state_dict())
        trainable = [p.flatten() for p in untouched.parameters() if p.requires_grad]
        assert torch.equal(flat.vector, torch.cat(trainable))
    flat.release()
    with torch.no_grad():
        flat.vector.fill_(8.0)
    assert torch.equal(module.body[0].weight, untouched.body[0].weight)


# ---------------------------------------------------------------- on a GPU


def capturable(vector):
    rate = torch.tensor(0.01, device=vector.device)
    return torch.optim.AdamW([vector], lr=rate, fused=True, capturable=True)


@pytest.mark.gpu
@needs_gpu
def test_a_captured_step_trains_like_an_eager_one_at_every_rate():
    table = data("cuda", torch.float32)
    modules = [net("cuda", torch.float32) for _ in range(2)]
    averages = [FlatParameters(net("cuda", torch.float32)).vector.detach() for _ in range(2)]
    eager, inner = (
        make(module, capturable, clip=0.5, averaged=average, decay=0.9, table=table)
        for module, average in zip(modules, averages, strict=True)
    )
    graphed = GraphedStep(inner, 16)
    for i, indices in enumerate(batches(30, "cuda")):
        for step in (eager, inner):
            step.optimizer.param_groups[0]["lr"].fill_(0.02 * (i % 5))  # every fifth stands still
        before = inner.parameters.vector.detach().clone()
        eager(indices)
        graphed(indices)
        moved = not torch.equal(before, inner.parameters.vector)
        assert moved == (i % 5 != 0)
        torch.testing.assert_close(inner.parameters.vector, eager.parameters.vector)
    assert graphed.graph is not None
    torch.testing.assert_close(averages[1], averages[0])
    torch.testing.assert_close(graphed.take_sums(), eager.take_sums())


@pytest.mark.gpu
@needs_gpu
def test_an_eager_step_does_not_synchronise_with_the_gpu():
    step = make(net("cuda", torch.float32), adamw, clip=0.5, table=data("cuda", torch.float32))
    indices = batches(4, "cuda")
    step(indices[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in indices[1:]:
            step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
