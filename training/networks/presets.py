"""Skip weights by the names that the literature uses: each is a set of values for the options."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

Value = str | float | bool

_ADARESNET: Mapping[str, Value] = {"placement": "shortcut", "scale_init": "zero"}
_FIXED: Mapping[str, Value] = {"granularity": "fixed", "placement": "shortcut"}
_BRANCH: Mapping[str, Value] = {"granularity": "block", "placement": "branch"}

PRESETS: Mapping[str, Mapping[str, Value]] = MappingProxyType(
    {
        # He et al. 2015: the matched control of everything below.
        "plain": {**_FIXED, "scale_init": "one"},
        # AdaResNet (arXiv 2408.09958): eq. 8 with a weight a block, and one for all.
        "adaresnet": {**_ADARESNET, "granularity": "block"},
        "adaresnet-unified": {**_ADARESNET, "granularity": "unified"},
        "adaresnet-block-type": {**_ADARESNET, "granularity": "block_type"},
        "adaresnet-stage": {**_ADARESNET, "granularity": "stage"},
        "adaresnet-channel": {**_ADARESNET, "granularity": "channel"},
        # The same, beginning as a plain ResNet or as the published script's RandomNormal.
        "adaresnet-one": {**_ADARESNET, "granularity": "block", "scale_init": "one"},
        "adaresnet-normal": {
            **_ADARESNET,
            "granularity": "block",
            "scale_init": "normal",
            "scale_std": 0.05,
        },
        "softplus": {
            "granularity": "block",
            "placement": "shortcut",
            "scale_init": "one",
            "scale_bound": "softplus",
        },
        # AdaResNet's control, and He et al. 2016 (arXiv 1603.05027) table 1.
        "fixed-2": {**_FIXED, "scale_init": "constant", "scale_value": 2.0},
        "fixed-half": {**_FIXED, "scale_init": "constant", "scale_value": 0.5},
        "half-half": {
            "granularity": "fixed",
            "placement": "both",
            "scale_init": "constant",
            "scale_value": 0.5,
        },
        "no-skip": {**_FIXED, "scale_init": "zero"},
        # Weights on the branch: 2003.04887, 2002.10444, 1611.01260 without its ReLU, 2103.17239.
        "rezero": {**_BRANCH, "scale_init": "zero"},
        "skipinit": {**_BRANCH, "scale_init": "zero"},
        "gated": {**_BRANCH, "scale_init": "one"},
        # 0.1 is LayerScale's for up to 18 blocks; it takes 1e-5 up to 24 and 1e-6 beyond.
        "layerscale": {
            "granularity": "channel",
            "placement": "branch",
            "scale_init": "constant",
            "scale_value": 0.1,
        },
        # The author's first upload, for the network of that name: Keras's he_normal of one scalar.
        "first-upload": {
            "granularity": "unified",
            "placement": "branch",
            "scale_init": "normal",
            "scale_std": 1.414,
        },
        # arXiv 1706.02677 section 5.1.
        "zero-gamma": {**_FIXED, "scale_init": "one", "zero_gamma": True},
    }
)
