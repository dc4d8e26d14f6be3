# SPDX-License-Identifier: Apache-2.0
"""A slow rasterizer in float64 torch: every Gaussian against every pixel, gradients by autograd.

Discontinuities follow gsplat's rules: 3-sigma radius, tiles met by the radius' square, alpha >= 1/255, alpha <= 0.999,
a pixel stops before transmittance 1e-4.
"""

import torch
from torch.nn import functional as F

TILE = 16


def covariances(quats, scales):
    w, x, y, z = F.normalize(quats, dim=-1).unbind(-1)
    R = torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ], dim=-1,
    ).reshape(-1, 3, 3)  # fmt: skip
    M = R * scales[:, None, :]
    return M @ M.transpose(1, 2)


def sh_basis(d):
    x, y, z = d.unbind(-1)
    one = torch.ones_like(x)
    return torch.stack(
        [
            0.28209479177387814 * one,
            -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x,
            1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (2 * z * z - x * x - y * y),
            -1.0925484305920792 * x * z, 0.5462742152960396 * (x * x - y * y),
            -0.5900435899266435 * y * (3 * x * x - y * y), 2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * z * z - x * x - y * y),
            0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y),
            -0.4570457994644658 * x * (4 * z * z - x * x - y * y), 1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ], dim=-1,
    )  # fmt: skip


def project(means, covars, view, K, width, height, eps2d):
    R, t = view[:3, :3], view[:3, 3]
    p = means @ R.T + t
    S = R @ covars @ R.T
    z = p[:, 2]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    mx, my = 0.15 * width / fx, 0.15 * height / fy
    tx = z * (p[:, 0] / z).clamp(min=-(cx / fx + mx), max=(width - cx) / fx + mx)
    ty = z * (p[:, 1] / z).clamp(min=-(cy / fy + my), max=(height - cy) / fy + my)
    zero = torch.zeros_like(z)
    J = torch.stack([fx / z, zero, -fx * tx / z**2, zero, fy / z, -fy * ty / z**2], -1).reshape(-1, 2, 3)
    sharp = J @ S @ J.transpose(1, 2)
    A = sharp + eps2d * torch.eye(2, dtype=sharp.dtype)
    det = A[:, 0, 0] * A[:, 1, 1] - A[:, 0, 1] ** 2
    sharp_det = sharp[:, 0, 0] * sharp[:, 1, 1] - sharp[:, 0, 1] ** 2
    mean2d = torch.stack([fx * p[:, 0] / z + cx, fy * p[:, 1] / z + cy], -1)
    middle = 0.5 * (A[:, 0, 0] + A[:, 1, 1])
    radius = torch.ceil(3 * torch.sqrt(middle + torch.sqrt((middle**2 - det).clamp(min=0.01)))).detach()
    return mean2d, z, torch.linalg.inv(A), radius, torch.sqrt((sharp_det / det).clamp(min=0))


def composite(mean2d, depth, conic, radius, opacity, colors, background, width, height):
    """One camera, visible Gaussians only; gives image, alpha."""
    order = torch.argsort(depth.detach().float(), stable=True)
    mean2d, conic, radius, opacity, colors = (t[order] for t in (mean2d, conic, radius, opacity, colors))
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([xs, ys], -1).reshape(-1, 2)
    tile = (pixels // TILE)[:, None]
    low = torch.floor((mean2d.detach() - radius[:, None]) / TILE)
    high = torch.ceil((mean2d.detach() + radius[:, None]) / TILE)
    listed = ((tile >= low) & (tile < high)).all(-1)
    d = mean2d - (pixels + 0.5)[:, None]
    sigma = 0.5 * (conic[:, 0, 0] * d[..., 0] ** 2 + conic[:, 1, 1] * d[..., 1] ** 2) + conic[:, 0, 1] * d.prod(-1)
    alpha = (opacity * torch.exp(-sigma)).clamp(max=0.999)
    alpha = torch.where(listed & (alpha >= 1 / 255), alpha, 0)
    after = torch.cumprod(1 - alpha, dim=1)
    alpha = torch.where(after.detach() > 1e-4, alpha, 0)
    after = torch.cumprod(1 - alpha, dim=1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
    end = after[:, -1:] if len(order) else torch.ones(len(pixels), 1, dtype=colors.dtype)
    image = (alpha * before) @ colors + end * background
    return image.reshape(height, width, -1), (1 - end).reshape(height, width, 1)


def render(
    means, quats, scales, opacities, colors, viewmats, Ks, width, height, sh_degree=None, backgrounds=None,
    render_mode="RGB", rasterize_mode="classic", covars=None, near_plane=0.01, far_plane=1e10, eps2d=0.3,
    radius_clip=0.0, **_,
):  # fmt: skip
    images, alphas, means2d = [], [], []
    covars = covariances(quats, scales) if covars is None else covars
    covars = torch.triu(covars) + torch.triu(covars, 1).transpose(1, 2)
    for c, (view, K) in enumerate(zip(viewmats, Ks, strict=True)):
        local = means @ view[:3, :3].T + view[:3, 3]
        near = (local[:, 2] >= near_plane) & (local[:, 2] <= far_plane)
        own = torch.where(near)[0]
        mean2d, depth, conic, radius, comp = project(means[own], covars[own], view, K, width, height, eps2d)
        size = torch.tensor([width, height])
        seen = ((mean2d + radius[:, None] > 0) & (mean2d - radius[:, None] < size)).all(-1) & (radius > radius_clip)
        own, mean2d, depth, conic, radius, comp = (t[seen] for t in (own, mean2d, depth, conic, radius, comp))
        if mean2d.requires_grad:
            mean2d.retain_grad()
        rgb = colors[c][own] if colors.dim() == (3 if sh_degree is None else 4) else colors[own]
        if sh_degree is not None:
            direction = F.normalize(means[own] - torch.linalg.inv(view)[:3, 3], dim=-1)
            terms = (sh_degree + 1) ** 2
            rgb = torch.einsum("nk,nkc->nc", sh_basis(direction)[:, :terms], rgb[:, :terms])
            rgb = (rgb + 0.5).clamp(min=0)
        background = torch.zeros(rgb.shape[-1], dtype=means.dtype) if backgrounds is None else backgrounds[c]
        if render_mode in ("D", "ED"):
            rgb, background = depth[:, None], torch.zeros(1, dtype=means.dtype)
        elif render_mode != "RGB":
            rgb, background = torch.cat([rgb, depth[:, None]], -1), F.pad(background, (0, 1))
        opacity = opacities[own] * (comp if rasterize_mode == "antialiased" else 1)
        image, alpha = composite(mean2d, depth, conic, radius, opacity, rgb, background, width, height)
        if render_mode.endswith("ED"):
            image = torch.cat([image[..., :-1], image[..., -1:] / alpha.clamp(min=1e-10)], -1)
        images.append(image)
        alphas.append(alpha)
        means2d.append((own, mean2d))
    return torch.stack(images), torch.stack(alphas), means2d
