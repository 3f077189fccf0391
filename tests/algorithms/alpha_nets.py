"""Small mixed supernets and tasks in float64, and plain loops on them, for the tests of searches by gradient."""

import torch
import torch.nn.functional as F
from torch.func import functional_call

from few_shot_nas.algorithms.alpha_search import AlphaLoop, is_alpha
from few_shot_nas.algorithms.settings import InnerLoop
from few_shot_nas.episode import Episode, Task
from few_shot_nas.spaces.mixed_supernet import MixedSupernet

SIZES = {"space": "darts", "channels": 2, "cells": 2, "nodes": 2}
RATES = {"inner_lr": 0.05, "alpha_inner_lr": 3.0}


def make_net(kind=MixedSupernet, **changes):
    torch.manual_seed(0)
    return kind(3, 1, 12, **{**SIZES, "affine": False, "norm_pools": True, **changes}).double()


def make_task(seed):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(3 + 6, 1, 12, 12, generator=draw, dtype=torch.float64)
    return Task(x[:3], torch.arange(3), x[3:], torch.arange(3).repeat(2), torch.tensor(seed))


def tasks_of(count):
    return [make_task(seed) for seed in range(count)]


def meta_batch(drawn):
    return Episode(*(torch.stack(parts) for parts in list(zip(*drawn, strict=True))[:5]))


def loss_of(net, params, x, y):
    return F.cross_entropy(functional_call(net, params, (x,)), y)


def inner(net, task, steps, rate):
    """Plain simultaneous descent on the support set; gradients are constants."""
    params = {name: value.detach().clone().requires_grad_() for name, value in net.named_parameters()}
    for _ in range(steps):
        loss = loss_of(net, params, task.support_x, task.support_y)
        grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        params = {
            name: (value - rate(name) * (0 if g is None else g)).detach().requires_grad_()
            for (name, value), g in zip(params.items(), grads, strict=True)
        }
    return params


def query_gradient(net, params, task):
    loss = loss_of(net, params, task.query_x, task.query_y)
    grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    return {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(params.items(), grads, strict=True)}


def settings(**alphas):
    return {
        "inner": InnerLoop(RATES["inner_lr"], 3, eval_inner_steps=2, first_order=True),
        "alphas": AlphaLoop(alpha_inner_lr=RATES["alpha_inner_lr"], decode_episodes=2, **alphas),
    }


def gradients(module):
    return {name: value.grad for name, value in module.net.named_parameters()}


def one_update(module, batch):
    """One meta-step outside a Trainer; returns the parameters after it."""
    optimizers = module.configure_optimizers()
    module.optimizers = lambda: optimizers
    module.manual_backward = lambda loss: loss.backward()
    module.update(batch)
    return {name: value.detach().clone() for name, value in module.net.named_parameters()}


def joint_rate(name):
    return RATES["alpha_inner_lr"] if is_alpha(name) else RATES["inner_lr"]


def first_adam_step(value, mean, rate):
    return value - rate * mean / (mean.abs() + 1e-8)
