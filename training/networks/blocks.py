"""Residual blocks: two kinds of join, any branch.

A basic, a bottleneck and a ResNeXt block differ in their branch only, which is a list of
convolution units; ``*_branch`` make the usual ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.layers import PYTORCH, ConvUnit, LayerStyle, NormRelu
from training.networks.shortcut import Scale

ShortcutKind = Literal["identity", "projection"]


class PaddedShortcut(nn.Module):
    """Shortcut without parameters where the shape changes: every n-th pixel, zero channels added.

    Source: He et al. 2015 (arXiv 1512.03385) section 3.3, option A.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        """Put the added channels half before and half behind."""
        super().__init__()
        self.stride = stride
        self.before = (channels_out - channels_in) // 2
        self.behind = channels_out - channels_in - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, channels_in, H, W] to [N, channels_out, H / stride, W / stride]."""
        taken = x[:, :, :: self.stride, :: self.stride]
        return F.pad(taken, (0, 0, 0, 0, self.before, self.behind))


class ResidualBlock(nn.Module):
    """What every block has: two terms, a scale on either, and a droppath switch.

    Attributes:
        shortcut_kind: ``projection`` where the shortcut has parameters.
        shortcut_scale: The learned w, or None.
        branch_scale: The learned v, or None.
        keep: Droppath's switch. True: as it is. False: the branch is not run at all. A tensor,
            float [N, 1, 1, 1]: factor of the branch, one a sample.
    """

    keep: bool | Tensor = True

    def __init__(self, kind: ShortcutKind, scales: tuple[Scale | None, Scale | None]) -> None:
        """Take the scales of shortcut and branch, in this order."""
        super().__init__()
        self.shortcut_kind = kind
        self.shortcut_scale, self.branch_scale = scales

    def terms(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """The two terms of the join.

        Returns:
            ``v * T(x)``, None where droppath dropped it, and ``w * S(x)``, [N, C, H', W'] each.
        """
        raise NotImplementedError

    def branch_modules(self) -> list[nn.Module]:
        """The modules of T, which droppath trains or freezes."""
        raise NotImplementedError

    def zero_branch(self) -> None:
        """Let the branch begin at zero."""
        raise NotImplementedError

    def _scaled_branch(self, x: Tensor) -> Tensor:
        if self.branch_scale is not None:
            x = self.branch_scale(x)
        return x if isinstance(self.keep, bool) else x * self.keep.to(x.dtype)

    def _scaled_shortcut(self, x: Tensor) -> Tensor:
        return x if self.shortcut_scale is None else self.shortcut_scale(x)


class ConvBlock(ResidualBlock):
    """A block whose branch is a list of convolution units with a ReLU between each two.

    Attributes:
        branch: The units.
        shortcut: None for the identity.
    """

    def __init__(
        self,
        branch: Sequence[ConvUnit],
        shortcut: ConvUnit | PaddedShortcut | None,
        scales: tuple[Scale | None, Scale | None],
    ) -> None:
        """Take the parts."""
        super().__init__("projection" if isinstance(shortcut, ConvUnit) else "identity", scales)
        self.branch = nn.ModuleList(branch)
        self.shortcut = shortcut
        self.relu = nn.ReLU(inplace=True)

    def units(self) -> list[ConvUnit]:
        """The branch's units, first to last."""
        return [unit for unit in self.branch if isinstance(unit, ConvUnit)]

    def branch_modules(self) -> list[nn.Module]:
        """The modules of T."""
        return [self.branch]

    def zero_branch(self) -> None:
        """Set the last batch norm's weight to zero, or the last convolution's where it has none."""
        last = self.units()[-1]
        nn.init.zeros_(
            last.norm.weight if isinstance(last.norm, nn.BatchNorm2d) else last.conv.weight
        )

    def _run_branch(self, x: Tensor) -> Tensor | None:
        if self.keep is False:
            return None
        *inner, last = self.branch
        for unit in inner:
            x = self.relu(unit(x))
        return self._scaled_branch(last(x))

    def _run_shortcut(self, x: Tensor) -> Tensor:
        return self._scaled_shortcut(x if self.shortcut is None else self.shortcut(x))


class PostActivationBlock(ConvBlock):
    """``y = relu(v * T(x) + w * S(x))``.

    Source: T and S, He et al. 2015 (arXiv 1512.03385) fig. 2 and 5; w, AdaResNet eq. 2.
    """

    def terms(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """``v * T(x)`` and ``w * S(x)``."""
        return self._run_branch(x), self._run_shortcut(x)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, C_in, H, W], none negative, to [N, C_out, H', W']."""
        branch, shortcut = self.terms(x)
        joined: Tensor = self.relu(shortcut + branch) if branch is not None else F.relu(shortcut)
        return joined


class PreActivationBlock(ConvBlock):
    """``y = v * T(h) + w * S(x)`` with ``h = relu(norm(x))``; a projection takes h as well.

    Source: He et al. 2016 (arXiv 1603.05027) fig. 4e; wide ones, arXiv 1605.07146.
    """

    def __init__(
        self,
        channels_in: int,
        branch: Sequence[ConvUnit],
        shortcut: ConvUnit | None,
        scales: tuple[Scale | None, Scale | None],
        style: LayerStyle = PYTORCH,
    ) -> None:
        """Put the pre-activation in front; the branch's last unit has no batch norm."""
        super().__init__(branch, shortcut, scales)
        self.pre = NormRelu(channels_in, style)

    def branch_modules(self) -> list[nn.Module]:
        """The modules of T; the pre-activation feeds T alone unless the shortcut projects it."""
        return [self.branch] if self.shortcut is not None else [self.pre, self.branch]

    def terms(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """``v * T(h)`` and ``w * S(x)``."""
        h = self.pre(x)
        return self._run_branch(h), self._run_shortcut(x if self.shortcut is None else h)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, C_in, H, W] to [N, C_out, H', W'], of any sign."""
        branch, shortcut = self.terms(x)
        return shortcut if branch is None else shortcut + branch


def basic_branch(
    channels_in: int,
    channels: int,
    stride: int,
    *,
    last_normed: bool = True,
    style: LayerStyle = PYTORCH,
) -> list[ConvUnit]:
    """Two 3 x 3 convolutions. Source: He et al. 2015 fig. 5 left."""
    return [
        ConvUnit(channels_in, channels, 3, stride, style=style),
        ConvUnit(channels, channels, 3, normed=last_normed, style=style),
    ]


def bottleneck_branch(
    channels_in: int,
    inner: int,
    channels_out: int,
    stride: int,
    *,
    groups: int = 1,
    stride_first: bool = False,
    style: LayerStyle = PYTORCH,
) -> list[ConvUnit]:
    """1 x 1, 3 x 3 in groups, 1 x 1.

    ``stride_first`` strides the first convolution, as the paper and Keras do; otherwise the second
    does (ResNet v1.5). Source: He et al. 2015 fig. 5 right; groups, Xie et al. 2016 (1611.05431).
    """
    first, second = (stride, 1) if stride_first else (1, stride)
    return [
        ConvUnit(channels_in, inner, 1, first, style=style),
        ConvUnit(inner, inner, 3, second, groups=groups, style=style),
        ConvUnit(inner, channels_out, 1, style=style),
    ]
