"""What the words of the field mean that pages use, in words that anybody knows."""

from __future__ import annotations

import re

_INTERVAL = (
    "if other images of the same kind had been drawn, the true figure would lie within these ends in 95 of 100 cases; "
    "figures whose ends overlap widely may not differ at all"
)
WORDS = {
    "AP": "average precision, of boxes: 100 if every object is found, exactly where it is, and nothing else",
    "95 % interval": _INTERVAL,
    "95 %:": _INTERVAL,
    "as reported": "with the time that profiling itself adds to each operator",
    "balanced sampling": "each step of training takes networks from all sizes of the space",
    "bootstrapped": "found by drawing the same images again and again, some twice and some not at all",
    "calibration network": "a whole network whose measured time scales the sum of its blocks’ times",
    "corrected": "without the time that profiling itself adds to each operator",
    "depthwise convolution": "a convolution that looks at each channel by itself: little arithmetic, much memory",
    "epoch": "one pass over all training images",
    "evaluation": "a network of the space, tried on the search images",
    "embedding": "the channels that all blocks of a transformer read and write",
    "FFN": "feed-forward network: the layers between attentions, which mix the channels of each place by itself",
    "fine-tuned": "trained on from weights that it had, on these images",
    "held-out network": "a network that the latency table was not fitted to",
    "hypervolume": "one figure for all that a search found: the area below its best networks in a plot of accuracy "
    "against efficiency (the logarithm of MES); more is better, and 0 is no better than guessing",
    "inherited": "with the weights that the supernet has for it, before a training of its own",
    "interleaved": "networks take turns, so that a change of the machine’s speed meets all alike",
    "IoU": "how far two boxes overlap: the area that both cover as a share of the area that either covers",
    "Kendall": "rank correlation: 1 if all pairs of networks are in the right order, 0 if that is chance",
    "kl loss": "networks learn to give the probabilities that the largest one gives",
    "logits": "the scores of the classes, before they become probabilities",
    "MACs": "multiply-accumulates, a multiplication and an addition each: the arithmetic for one image",
    "memory-bound": "limited by how fast numbers are moved, not by how fast they are computed with",
    "MHSA": "multi-head self-attention: layers in which each place of the image looks at all others",
    "MMAC": "a million multiply-accumulates, a multiplication and an addition each",
    "MES": "mobile efficiency score: one figure for how cheap a network is, by the formula given; 100 at the units in "
    "it, twice as much at half the latency; accuracy has no part in it",
    "narrowed network": "the largest network with fewer channels everywhere: what anybody could do without a search",
    "norms": "layers that keep the mean and spread of what passes through them in balance",
    "nsga2": "search strategy: evolution, keeping the best trade-offs and mixing them",
    "Pareto set": "networks that no other one beats in both accuracy and cost",
    "Pareto front": "networks that no other one beats in both accuracy and cost",
    "Pearson": "correlation, squared here: 1 if the figures lie on a line, 0 if one says nothing of the other",
    "pointwise convolution": "a convolution of 1 × 1 pixels, which mixes channels: most of the arithmetic",
    "predictor": "search strategy: learns from the networks tried so far which ones to try next",
    "pruned network": "the trained network with the parts taken away that matter least",
    "retrained": "after a training of its own",
    "sandwich sampling": "each step of training takes the largest network, the smallest, and some between them",
    "search split": "images kept out of training, by which the search compares networks",
    "seed": "the number that random choices begin from: other seeds show how much of a result is chance",
    "shared norms": "all networks of the supernet normalize by one set of numbers",
    "sliced": "with its part of the pretrained network’s weights, before training",
    "slimming": "search strategy: from the largest network on, always the step that costs the least accuracy for "
    "what it saves",
    "Spearman": "rank correlation: 1 if the order of the networks is right, 0 if it is chance",
    "supernet": "one network with the weights of all networks of the space in it, so that each can be tried untrained",
    "Taylor importance": "how much worse the network would get without a part, estimated from one pass of training",
    "test split": "images that neither training nor search has seen",
    "top-1": "the share of images whose first answer is right",
    "top-5": "the share of images whose right class is among the first five answers",
}
_KNOWN = {word.lower(): word for word in WORDS}
# Neither in names (winner-1-retrained) nor in other words.
PATTERN = re.compile(
    r"(?<![\w.,-])(" + "|".join(sorted(map(re.escape, WORDS), key=len, reverse=True)) + r")(?=s?(?![\w-]))",
    re.IGNORECASE,
)


def word_of(text: str) -> str:
    """The word as `WORDS` has it, of what `PATTERN` found."""
    return _KNOWN[text.lower()]
