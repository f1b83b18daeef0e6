"""Published decoders as coefficients of one log mixture, log p = const + sum_k c_k log p_k.

    mod          c = w, with sum_k w_k = 1                    MOD, arXiv 2406.18853
    proxy_tuning base 1, expert a, anti-expert -a             proxy-tuning, arXiv 2401.08565
    guided       base 1, expert k a_k                         GenARM, arXiv 2410.08193
    contrast     positive 1 + g, negative -g                  classifier-free guidance, arXiv 2306.17806
    amplify      base 1 - s, expert s                         decoding-time realignment, arXiv 2402.02992

Each is exact for one token. Of whole sequences the product is exact as well, but a token cannot see what normalisation
its successors will need: token by token, all of these approximate the product of the experts' sequence distributions.
"""

import math
from collections.abc import Iterable, Mapping

from counterpoint.compose.plan import Plan, Row
from counterpoint.types import CounterpointError

BASE = "base"
"""The name that stands for the base model without an expert."""


def mix(coefficients: Mapping[str, float]) -> Plan:
    """A row per expert, an adapter or a whole model, mixed in log space with any real coefficients.

    What has a coefficient of 0 gets no row. Raises CounterpointError where nothing is left, and for a coefficient that
    is not finite.
    """
    for name, c in coefficients.items():
        if not math.isfinite(c):
            raise CounterpointError(f"the coefficient of {name!r} is {c}; expected a finite number")
    named = {name: float(c) for name, c in coefficients.items() if c}
    if not named:
        raise CounterpointError(f"nothing to mix: {dict(coefficients)!r} has no coefficient but 0; give one a number")
    rows = (Row() if name == BASE else Row({name: 1.0}) for name in named)
    return Plan(tuple(rows), tuple(named.values()), "log")


def mod(w: Mapping[str, float]) -> Plan:
    """p ~ prod_k p_k^w_k with sum_k w_k = 1; a weight may be negative (MOD, arXiv 2406.18853, reverse KL).

    Where expert k is base * exp(r_k / beta), this is base * exp(sum_k w_k r_k / beta). Raises CounterpointError for
    weights that do not sum to one.
    """
    total = sum(w.values())
    if not abs(total - 1) < 1e-6:
        raise CounterpointError(f"the weights {dict(w)!r} sum to {total:g}, expected 1; use `mix` for any coefficients")
    return mix(w)


def proxy_tuning(expert: str, anti: str, a: float = 1.0, base: str = BASE) -> Plan:
    """p ~ base * (expert / anti)^a: what tuned a small `anti` into `expert`, lent to `base` (arXiv 2401.08565).

    As in DExperts (arXiv 2105.03023), which has an anti-expert that was trained for what is not wanted.
    """
    return mix(_summed([(base, 1.0), (expert, a), (anti, -a)]))


def guided(a: Mapping[str, float], base: str = BASE) -> Plan:
    """p ~ base * prod_k p_k^a_k, where p_k is a reward model that is a language model (GenARM, arXiv 2410.08193).

    a_k = beta_k / beta, the reward's own scale over the wanted one; the coefficients sum to 1 + sum_k a_k. The
    published engine divides by that sum, and is given the temperature T / (1 + sum_k a_k) for it: the same as T here.
    """
    return mix(_summed([(base, 1.0), *a.items()]))


def contrast(positive: str, negative: str = BASE, g: float = 1.0) -> Plan:
    """p ~ positive * (positive / negative)^g (classifier-free guidance for text, arXiv 2306.17806).

    That `negative` may be an expert trained on swapped pairs is our inference from pictures (Diffusion-NPO, ICLR 2025;
    Self-NPO, arXiv 2505.11777): where the two are base * exp(+-r / beta), this is base * exp((1 + 2 g) r / beta).
    A token that the negative all but rules out can become the likeliest, whatever the positive thinks of it.
    """
    return mix(_summed([(positive, 1 + g), (negative, -g)]))


def amplify(expert: str, strength: float, base: str = BASE) -> Plan:
    """p ~ base^(1 - strength) * expert^strength: up to 1 weakens an expert, beyond 1 amplifies it (arXiv 2402.02992).

    An expert trained with a KL penalty beta is base * exp(r / beta); this is what beta / strength would have given.
    """
    return mix(_summed([(base, 1 - strength), (expert, strength)]))


def _summed(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Coefficients by name, added where a name has two parts in an equation."""
    total: dict[str, float] = {}
    for name, c in pairs:
        total[name] = total.get(name, 0.0) + c
    return total
