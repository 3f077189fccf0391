"""Scores of an architecture without training and without query labels.

A proxy is a file with a :class:`few_shot_nas.proxies.proxy.Proxy` in it, and a line here. Every search can then be
rewarded by it, and the tools for tables of proxies take it up.
"""

from few_shot_nas.proxies.cost import MACS, PARAMS
from few_shot_nas.proxies.fisher import FISHER
from few_shot_nas.proxies.grad_norm import GRAD_NORM
from few_shot_nas.proxies.grasp import GRASP
from few_shot_nas.proxies.jacobian_entropy import JACOBIAN_ENTROPY
from few_shot_nas.proxies.jacov import JACOV
from few_shot_nas.proxies.linear_regions import LINEAR_REGIONS
from few_shot_nas.proxies.meta_ntk_condition import META_NTK_CONDITION
from few_shot_nas.proxies.naswot import NASWOT
from few_shot_nas.proxies.ntk_condition import NTK_CONDITION
from few_shot_nas.proxies.proxy import Proxy
from few_shot_nas.proxies.snip import SNIP
from few_shot_nas.proxies.swap import SWAP
from few_shot_nas.proxies.synflow import SYNFLOW
from few_shot_nas.proxies.zen import ZEN
from few_shot_nas.proxies.zico import ZICO

PROXIES: dict[str, Proxy] = {
    "params": PARAMS,
    "macs": MACS,
    "meta_ntk_condition": META_NTK_CONDITION,
    "ntk_condition": NTK_CONDITION,
    "linear_regions": LINEAR_REGIONS,
    "grad_norm": GRAD_NORM,
    "snip": SNIP,
    "grasp": GRASP,
    "synflow": SYNFLOW,
    "fisher": FISHER,
    "jacov": JACOV,
    "jacobian_entropy": JACOBIAN_ENTROPY,
    "naswot": NASWOT,
    "zico": ZICO,
    "swap": SWAP,
    "zen": ZEN,
}
