"""SPAI: how well the frequencies of each patch can be restored, and attention over the patches of a picture of any size.

Original:
    https://github.com/mever-team/spai (not copied; implemented from its description)

References:
    | Any-Resolution AI-Generated Image Detection by Spectral Learning (Karageorgiou et al., CVPR 2025)
    | https://arxiv.org/abs/2411.19417
    | Masked Frequency Modeling for Self-Supervised Visual Pre-Training (Xie et al., ICLR 2023)
    | https://arxiv.org/abs/2206.07706

Deviations: parts of the original that its forward pass never reaches do not exist, and the frequency mask, being a constant,
is not in the state dict. Crops of a picture that coincide are computed once. In training, too, a picture with few patches is
seen as five crops; V joined training views are a picture of 224 x (224 V) pixels, as in the original, but for V < 4 that
needs `minimum_patches = 1`. Attention and head run in float32 under autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers.mfm_vit import MFMViT, initialise, standardise
from ..layers.restoration import RestorationEstimator
from ..layers.spectral import FrequencySplit, doubled_disc

PATCH = 224  # side of a patch in pixels
RADIUS = 16  # of the low frequencies, in bins


class PatchAttention(nn.Module):
    """A learned query attends to the vectors of all patches.

    Args:
        features: Length F of a vector.
        heads: Attention heads.
        width: Channels of all heads together, a multiple of `heads`.
        dropout: Probability of dropout of the attention weights and of the result.

    Shape: (N, P, F) -> (N, F) and the weights (N, heads, 1, P), which sum to 1 over P.
    """

    def __init__(self, features: int, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(heads, 1, width // heads))
        self.key_value = nn.Linear(features, 2 * width, bias=False)
        self.out = nn.Linear(width, features, bias=False)
        self.dropout = nn.Dropout(dropout)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n, patches, _ = x.shape
        heads, _, width = self.query.shape
        keys, values = self.key_value(x).view(n, patches, 2, heads, width).permute(2, 0, 3, 1, 4)  # (N, heads, P, width)
        weights = (self.query @ keys.mT * width**-0.5).softmax(dim=-1)  # (N, heads, 1, P)
        return self.dropout(self.out((self.dropout(weights) @ values).flatten(1))), weights


class SPAI(nn.Module):
    """The network of `build`, also for other sizes: (N, 3, H, W) pixels in [0, 1] -> (N, 1) logits of "AI-generated".

    Args:
        feature_batch, minimum_patches, train_backbone: See `build`.
        width, blocks, heads: See `MFMViT`; the defaults are those of ViT-B/16.
        projection: Channels of a projected token.
        query_heads, query_width: See `PatchAttention`.
        dropout: In all parts but the backbone.
        drop_path: See `MFMViT`; it acts in training even on a frozen backbone.
    """

    def __init__(
        self,
        *,
        feature_batch: int = 16,
        minimum_patches: int = 4,
        train_backbone: bool = False,
        width: int = 768,
        blocks: int = 12,
        heads: int = 12,
        projection: int = 1024,
        query_heads: int = 12,
        query_width: int = 1536,
        dropout: float = 0.5,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        if feature_batch < 1 or minimum_patches < 1:
            raise ValueError(
                f"Expected feature_batch and minimum_patches of at least 1, but found {feature_batch} and {minimum_patches}."
            )
        self.feature_batch = feature_batch
        self.minimum_patches = minimum_patches
        self.split = FrequencySplit(doubled_disc(PATCH, RADIUS))
        self.estimator = RestorationEstimator(width, blocks, projection, dropout)
        features = self.estimator.features
        self.attention = PatchAttention(features, query_heads, query_width, dropout)
        self.norm = nn.LayerNorm(features)
        self.head = nn.Sequential(
            *(nn.Linear(features, 3 * features), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(3 * features, 3 * features), nn.ReLU(), nn.Dropout(dropout)),
            nn.Linear(3 * features, 1),
        )
        self.apply(initialise)
        self.backbone = MFMViT(width=width, blocks=blocks, heads=heads, drop_path=drop_path, image_size=PATCH)
        self.backbone.requires_grad_(train_backbone)

    def boxes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(top, left) of each patch of 224 x 224 pixels, in the order of `attention_map`.

        A grid without overlap from the upper left, row by row, whose remainder is dropped; or, if it has fewer than
        `minimum_patches`, the four corners and the centre.

        Raises:
            ValueError: A side is shorter than a patch.
        """
        if min(height, width) < PATCH:
            raise ValueError(
                f"Expected a picture of at least {PATCH} x {PATCH} pixels, but found {height} x {width}; continue it by "
                f"reflection, as aigidetect.preprocess.Whole(min_size={PATCH}) does."
            )
        grid = [(top, left) for top in range(0, height - PATCH + 1, PATCH) for left in range(0, width - PATCH + 1, PATCH)]
        if len(grid) >= self.minimum_patches:
            return grid
        bottom, right = height - PATCH, width - PATCH
        return [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]

    def describe(self, patches: Tensor) -> Tensor:
        """One vector for each patch: (M, 3, 224, 224) in [0, 1] -> (M, F), see `RestorationEstimator`."""
        low, high = self.split(patches)
        three = torch.cat((patches, low.clamp(0, 1), high.clamp(0, 1)))  # (3 M, 3, 224, 224)
        vectors: Tensor = self.estimator(tokens[:, 1:] for tokens in self.backbone.outputs(standardise(three)))
        return vectors

    def features(self, x: Tensor) -> Tensor:
        """The vectors of all patches: (N, 3, H, W) -> (N, P, F), in the order of `boxes`."""
        boxes = self.boxes(*x.shape[-2:])
        # In training each crop has its own dropout, so that even equal ones differ.
        distinct = boxes if self.training else list(dict.fromkeys(boxes))
        places = [(picture, top, left) for picture in x for top, left in distinct]
        vectors = []
        for start in range(0, len(places), self.feature_batch):
            chunk = places[start : start + self.feature_batch]
            vectors.append(self.describe(torch.stack([p[:, t : t + PATCH, s : s + PATCH] for p, t, s in chunk])))
        index = {box: number for number, box in enumerate(distinct)}
        return torch.cat(vectors).view(len(x), len(distinct), -1)[:, [index[box] for box in boxes]]

    def attend(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """What the head reads: (N, P, F) -> (N, F), and the weights (N, heads, 1, P) of the patches in it."""
        attended, weights = self.attention(vectors)
        return self.norm(attended), weights

    @torch.no_grad()
    def attention_map(self, x: Tensor) -> Tensor:
        """How much each patch counts: (N, 3, H, W) -> (N, P) in the order of `boxes`, each row of sum 1.

        The mean of the attention weights over the heads; it says where the network looked, not what it found there.
        """
        with torch.autocast(x.device.type, enabled=False):
            weights = self.attend(self.features(x).to(self.norm.weight.dtype))[1]
        return weights.mean(dim=(1, 2))

    def evidence(self, x: Tensor) -> Tensor:
        """See `aigidetect.explain.Explainable`: each patch has the logit of a picture that consists of it alone.

        Unlike `attention_map` it tells what speaks for "AI-generated" from what speaks against it.
        """
        vectors = self.features(x)  # (N, P, F)
        with torch.autocast(x.device.type, enabled=False):
            alone = self.attend(vectors.to(self.norm.weight.dtype).flatten(0, 1)[:, None])[0]
            logits = self.head(alone).view(len(x), -1)  # (N, P)
        total: Tensor = logits.new_zeros(len(x), *x.shape[-2:])
        looks = torch.zeros_like(total)
        for (top, left), logit in zip(self.boxes(*x.shape[-2:]), logits.T):
            total[:, top : top + PATCH, left : left + PATCH] += logit[:, None, None]
            looks[:, top : top + PATCH, left : left + PATCH] += 1
        return total / looks

    def forward(self, x: Tensor) -> Tensor:
        vectors = self.features(x)  # (N, P, F)
        # In half precision the logit would be rounded visibly; this part costs next to nothing.
        with torch.autocast(x.device.type, enabled=False):
            logits: Tensor = self.head(self.attend(vectors.to(self.norm.weight.dtype))[0])
        return logits


def build(*, feature_batch: int = 16, minimum_patches: int = 4, train_backbone: bool = False) -> SPAI:
    """SPAI with random weights.

    Args:
        feature_batch: Patches that go through the backbone together: bounds the memory in inference, whatever the picture's
            size, and changes no score.
        minimum_patches: A picture with fewer patches in its grid is seen as five crops; see `SPAI.boxes`.
        train_backbone: Whether the vision transformer learns. SPAI keeps the weights of MFM's pre-training frozen.

    Returns:
        Module (N, 3, H, W) float32 in [0, 1], not normalised, H, W >= 224 -> (N, 1) logits; sigmoid is P(AI-generated).

    Raises:
        ValueError: `feature_batch` or `minimum_patches` below 1; in a forward pass, a picture that is too small.
    """
    return SPAI(feature_batch=feature_batch, minimum_patches=minimum_patches, train_backbone=train_backbone)
