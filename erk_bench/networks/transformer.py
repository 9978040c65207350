"""The diffusion transformer: one network for DiT, SiT, REPA, LightningDiT and JiT, by its switches.

DiT: arXiv 2212.09748; SiT: 2401.08740; REPA: 2410.06940; LightningDiT: 2501.01423; JiT: 2511.13720.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from erk_bench.networks.attention import Attention, by_float32_weights, by_products, fused
from erk_bench.networks.denoiser import RawNetwork
from erk_bench.networks.families import FAMILIES
from erk_bench.networks.positions import pairs_apart
from erk_bench.networks.transformer_layers import (
    Embedding,
    FinalLayer,
    PatchEmbed,
    SelfAttention,
    TimeEmbed,
    TransformerBlock,
)

# How the published programs compute attention, where it is not by fused kernels.
PUBLISHED_ATTENTION: dict[str, Attention] = {"repa": by_products, "jit": by_float32_weights}


class DiffusionTransformer(RawNetwork):
    """A transformer over patches; every block is modulated by the time and the class.

    Arguments are the constructor arguments of a checkpoint. family: key of FAMILIES (see families), which
    says what the output is. mlp_hidden: width inside the MLP. output_factor: output channels for one of the
    state: 2 with learned variances, of which all are kept where keep_variances is set. qk_norm: "", "layer"
    or "rms". shift: whether blocks shift as well as scale. null_class: whether the table of classes ends with
    a row for "any". bottleneck: width between the two convolutions of patches; 0 is one convolution.
    in_context_tokens: class tokens put before the patches, from block in_context_start on. noise_scale:
    standard deviation of the noise at the time of pure noise.

    network(x, t, classes): x [B, C, H, W]; t [B] or [1], the network's own time; classes int64 [B] or [1]. It
    runs once the network is folded. Positions are those of the state dict (see flow_files).
    """

    offset: Tensor  # of each token: its position, and the bias of its patch
    modulation: Tensor
    modulation_bias: Tensor
    rotary: Tensor | None  # cosines and sines of the tokens' angles
    rotary_with_context: Tensor | None

    def __init__(
        self,
        family: str,
        img_resolution: int,
        img_channels: int,
        num_classes: int,
        patch_size: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_hidden: int,
        output_factor: int = 1,
        *,
        keep_variances: bool = False,
        qk_norm: str = "",
        rms_norm: bool = False,
        swiglu: bool = False,
        rope: bool = False,
        shift: bool = True,
        null_class: bool = True,
        bottleneck: int = 0,
        in_context_tokens: int = 0,
        in_context_start: int = 0,
        noise_scale: float = 1.0,
    ) -> None:
        super().__init__(img_resolution, img_channels, num_classes, use_fp16=False, sigma_data=1.0)
        if family not in FAMILIES:
            raise ValueError(f"unknown family '{family}'. Known: {', '.join(FAMILIES)}")
        if img_resolution % patch_size:
            raise ValueError(f"img_resolution {img_resolution} is no multiple of patch_size {patch_size}")
        if hidden_size % num_heads or hidden_size % 4:
            raise ValueError(f"hidden_size {hidden_size} is no multiple of num_heads {num_heads} and of 4")
        head, side = hidden_size // num_heads, img_resolution // patch_size
        if rope and head % 4:
            raise ValueError(f"{head} channels a head cannot turn in two axes; num_heads is {num_heads}")
        if not 0 <= in_context_start < depth:
            raise ValueError(f"in_context_start {in_context_start} is none of the {depth} blocks")
        self.family, self.patch_size, self.num_heads = family, patch_size, num_heads
        self.null_class, self.noise_scale, self.keep_variances = null_class, noise_scale, keep_variances
        self.in_context_tokens, self.in_context_start = in_context_tokens, in_context_start
        self.rope, self.rms_norm = rope, rms_norm
        self.attention: Attention = fused
        self.pos_embed = nn.Parameter(torch.zeros(1, side**2, hidden_size))
        if in_context_tokens:
            self.in_context_posemb = nn.Parameter(torch.zeros(1, in_context_tokens, hidden_size))
        self.x_embedder = PatchEmbed(img_channels, patch_size, hidden_size, bottleneck)
        self.t_embedder = TimeEmbed(hidden_size)
        self.y_embedder = nn.ModuleDict({"embedding_table": Embedding(num_classes + null_class, hidden_size)})
        if rope:
            self.feat_rope = nn.Module()
            for name in ("freqs_cos", "freqs_sin"):
                self.feat_rope.register_buffer(name, torch.zeros(side**2, head))
        self.blocks = nn.ModuleList(
            TransformerBlock(hidden_size, num_heads, mlp_hidden, qk_norm, rms_norm, swiglu, shift)
            for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * img_channels * output_factor, rms_norm)
        self.folded = False

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None, **options: Tensor | None) -> Tensor:
        """The network's output; c_noise is its own time, labels are class numbers."""
        assert self.folded and labels is not None
        batch, height, width = len(x), *x.shape[2:]
        patch, num_before = self.patch_size, self.in_context_tokens
        tokens = self.x_embedder(x) + self.offset
        label = self.y_embedder["embedding_table"](labels)
        wide = F.silu(self.t_embedder(c_noise) + label).to(tokens.dtype)
        changes = F.linear(wide, self.modulation, self.modulation_bias)[:, None].split(self.widths, dim=-1)
        rotary = self.rotary
        for index, block in enumerate(self.blocks):
            if num_before and index == self.in_context_start:
                before = label[:, None].to(tokens.dtype) + self.in_context_posemb
                tokens = torch.cat([before.expand(batch, -1, -1), tokens], dim=1)
                rotary = self.rotary_with_context
            tokens = block(tokens, changes[index], self.attention, rotary)
        out = self.final_layer(tokens[:, num_before:], changes[-1])
        out = out.reshape(batch, height // patch, width // patch, patch, patch, -1)
        return out.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, height, width)

    @torch.no_grad()
    def fold(
        self,
        compute_dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> Self:
        """Join what every block asks of the time and class into one product, and turn to inference.

        Embeddings of time and class stay in float32 where compute_dtype is narrower.
        """
        wide = torch.promote_types(compute_dtype, torch.float32)
        if not self.folded:
            self.to(wide)  # sums round in it, whatever the file holds
            self._join_modulations()
            self._drop_variances()
            self._order_rotary()
            self.t_embedder.fold()
            last = self.x_embedder.last
            assert last.bias is not None
            self._keep("offset", self.pos_embed + last.bias)
            last.bias = None
            del self.pos_embed
            self.folded = True
        self.compute_dtype = compute_dtype
        for name in ("offset", "modulation", "modulation_bias", "rotary", "rotary_with_context"):
            tensor = getattr(self, name)
            self._keep(name, None if tensor is None else tensor.to(compute_dtype))
        if self.in_context_tokens:
            self.in_context_posemb.data = self.in_context_posemb.to(compute_dtype)
        for name, child in self.named_children():
            child.to(wide if name in ("t_embedder", "y_embedder") else compute_dtype)
        return self.eval().requires_grad_(False)

    def _keep(self, name: str, tensor: Tensor | None) -> None:
        self.register_buffer(name, tensor, persistent=False)

    def _join_modulations(self) -> None:
        weights, biases = [], []
        for part in [*self.blocks, self.final_layer]:
            linear = part.adaLN_modulation[1]
            count = len(linear.weight) // linear.in_features
            bias = linear.bias.detach().reshape(count, -1).clone()
            for scale in part.scales:
                bias[scale] += 1
            weights.append(linear.weight)
            biases.append(bias.flatten())
            del part.adaLN_modulation
        self.widths = [len(bias) for bias in biases]
        self._keep("modulation", torch.cat(weights))
        self._keep("modulation_bias", torch.cat(biases))

    def _drop_variances(self) -> None:
        linear, wanted = self.final_layer.linear, self.img_channels
        if not self.keep_variances and len(linear.weight) > self.patch_size**2 * wanted:
            for name in ("weight", "bias"):
                rows = getattr(linear, name).detach().unflatten(0, (self.patch_size**2, -1))
                setattr(linear, name, nn.Parameter(rows[:, :wanted].flatten(0, 1)))

    def _order_rotary(self) -> None:
        """Put the first of each pair of channels that turn into one half, so that a turn moves halves."""
        self._keep("rotary", None)
        self._keep("rotary_with_context", None)
        if not self.rope:
            return
        table = torch.stack(list(self.feat_rope.buffers()))  # cosines, sines
        order = pairs_apart(table.shape[-1]).to(table.device)
        still = torch.ones_like(table[:, :1])
        still[1] = 0
        self._keep("rotary", table[..., order])
        before = still.expand(-1, self.in_context_tokens, -1)
        self._keep("rotary_with_context", torch.cat([before, table], dim=1)[..., order])
        del self.feat_rope
        for attn in (module for module in self.modules() if isinstance(module, SelfAttention)):
            for name in ("weight", "bias"):
                rows = getattr(attn.qkv, name).detach().unflatten(0, (3, self.num_heads, -1)).clone()
                rows[:2] = rows[:2, :, order]
                setattr(attn.qkv, name, nn.Parameter(rows.flatten(0, 2)))
            for part in (attn.q_norm, attn.k_norm) if attn.normed else ():
                for name, value in list(part.named_parameters()):
                    setattr(part, name, nn.Parameter(value.detach()[order]))

    def use_published_attention(self) -> None:
        self.attention = PUBLISHED_ATTENTION.get(self.family, fused)
