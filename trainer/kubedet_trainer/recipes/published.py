"""What the zoo's page of February 2019 reports for each recipe: the figures to compare ours with.

Source: MODEL_ZOO.md of MMDetection v0.6rc0 (commit 07e1f5d): 8 V100, COCO train2017 and val2017, PyTorch 1.0
for inference and 0.4.1 for training (`docs/zoo.md`, 10). Frames per second include loading and
post-processing. Two rows of Mask R-CNN have each other's name on the page; its files have the right ones
(`docs/zoo.md`, 13, oddity 1).
"""

from __future__ import annotations

from dataclasses import replace

from kubedet_trainer.config.published import PublishedRow
from kubedet_trainer.contract import comparison
from kubedet_trainer.models.options.backbones import Style


def _row(
    backbone: str,
    style: Style,
    schedule: str,
    memory: float,
    seconds: float,
    fps: float,
    *,
    fps_batch8: float | None = None,
    box_ap: float | None = None,
    mask_ap: float | None = None,
    ar1000: float | None = None,
) -> PublishedRow:
    return PublishedRow(
        backbone=backbone,
        style=style,
        schedule=schedule,
        memory_gb=memory,
        seconds_per_iteration=seconds,
        inference_fps=fps,
        fps_batch8=fps_batch8,
        box_ap=box_ap,
        mask_ap=mask_ap,
        ar1000=ar1000,
    )


SECTIONS = {
    "rpn": "RPN",
    "faster_rcnn": "Faster R-CNN",
    "mask_rcnn": "Mask R-CNN",
    "fast_rcnn": "Fast R-CNN, on proposals made beforehand",
    "retinanet": "RetinaNet",
    "cascade_rcnn": "Cascade R-CNN",
    "cascade_mask_rcnn": "Cascade Mask R-CNN",
    "ssd": "SSD",
    "ssd_voc": "SSD on PASCAL VOC",
    "gn": "Group normalisation",
    "dcn": "Deformable convolution",
}
"""The page's tables: key to heading."""

_ALLOCATED = ("gn", "dcn")
"""Sections whose memory the page counts in another way."""

_TABLES: dict[str, dict[str, PublishedRow]] = {
    "rpn": {
        "rpn_r50_caffe_fpn_1x": _row("r50", "caffe", "1x", 4.5, 0.379, 14.4, ar1000=58.2),
        "rpn_r50_fpn_1x": _row("r50", "pytorch", "1x", 4.8, 0.407, 14.5, ar1000=57.1),
        "rpn_r50_fpn_2x": _row("r50", "pytorch", "2x", 4.8, 0.407, 14.5, ar1000=57.6),
        "rpn_r101_caffe_fpn_1x": _row("r101", "caffe", "1x", 7.4, 0.513, 11.1, ar1000=59.4),
        "rpn_r101_fpn_1x": _row("r101", "pytorch", "1x", 8.0, 0.552, 11.1, ar1000=58.6),
        "rpn_r101_fpn_2x": _row("r101", "pytorch", "2x", 8.0, 0.552, 11.1, ar1000=59.1),
        "rpn_x101_32x4d_fpn_1x": _row("x101_32x4d", "pytorch", "1x", 9.9, 0.691, 8.3, ar1000=59.4),
        "rpn_x101_32x4d_fpn_2x": _row("x101_32x4d", "pytorch", "2x", 9.9, 0.691, 8.3, ar1000=59.9),
        "rpn_x101_64x4d_fpn_1x": _row("x101_64x4d", "pytorch", "1x", 14.6, 1.032, 6.2, ar1000=59.8),
        "rpn_x101_64x4d_fpn_2x": _row("x101_64x4d", "pytorch", "2x", 14.6, 1.032, 6.2, ar1000=60.0),
    },
    "faster_rcnn": {
        "faster_rcnn_r50_caffe_fpn_1x": _row("r50", "caffe", "1x", 4.9, 0.525, 10.0, box_ap=36.7),
        "faster_rcnn_r50_fpn_1x": _row("r50", "pytorch", "1x", 5.1, 0.554, 9.9, box_ap=36.4),
        "faster_rcnn_r50_fpn_2x": _row("r50", "pytorch", "2x", 5.1, 0.554, 9.9, box_ap=37.7),
        "faster_rcnn_r101_caffe_fpn_1x": _row("r101", "caffe", "1x", 7.4, 0.663, 8.4, box_ap=38.8),
        "faster_rcnn_r101_fpn_1x": _row("r101", "pytorch", "1x", 8.0, 0.698, 8.3, box_ap=38.6),
        "faster_rcnn_r101_fpn_2x": _row("r101", "pytorch", "2x", 8.0, 0.698, 8.3, box_ap=39.4),
        "faster_rcnn_x101_32x4d_fpn_1x": _row("x101_32x4d", "pytorch", "1x", 9.9, 0.842, 7.0, box_ap=40.2),
        "faster_rcnn_x101_32x4d_fpn_2x": _row("x101_32x4d", "pytorch", "2x", 9.9, 0.842, 7.0, box_ap=40.5),
        "faster_rcnn_x101_64x4d_fpn_1x": _row("x101_64x4d", "pytorch", "1x", 14.1, 1.181, 5.2, box_ap=41.3),
        "faster_rcnn_x101_64x4d_fpn_2x": _row("x101_64x4d", "pytorch", "2x", 14.1, 1.181, 5.2, box_ap=40.7),
    },
    "mask_rcnn": {
        "mask_rcnn_r50_caffe_fpn_1x": _row("r50", "caffe", "1x", 5.9, 0.658, 7.7, box_ap=37.5, mask_ap=34.4),
        "mask_rcnn_r50_fpn_1x": _row("r50", "pytorch", "1x", 5.8, 0.69, 7.7, box_ap=37.3, mask_ap=34.2),
        "mask_rcnn_r50_fpn_2x": _row("r50", "pytorch", "2x", 5.8, 0.69, 7.7, box_ap=38.6, mask_ap=35.1),
        "mask_rcnn_r101_caffe_fpn_1x": _row(
            "r101", "caffe", "1x", 8.8, 0.791, 7.0, box_ap=39.9, mask_ap=36.1
        ),
        "mask_rcnn_r101_fpn_1x": _row("r101", "pytorch", "1x", 9.1, 0.825, 6.7, box_ap=39.4, mask_ap=35.9),
        "mask_rcnn_r101_fpn_2x": _row("r101", "pytorch", "2x", 9.1, 0.825, 6.7, box_ap=40.4, mask_ap=36.6),
        "mask_rcnn_x101_32x4d_fpn_1x": _row(
            "x101_32x4d", "pytorch", "1x", 10.9, 0.972, 5.8, box_ap=41.2, mask_ap=37.2
        ),
        "mask_rcnn_x101_32x4d_fpn_2x": _row(
            "x101_32x4d", "pytorch", "2x", 10.9, 0.972, 5.8, box_ap=41.4, mask_ap=37.1
        ),
        "mask_rcnn_x101_64x4d_fpn_1x": _row(
            "x101_64x4d", "pytorch", "1x", 14.1, 1.302, 4.7, box_ap=42.2, mask_ap=38.1
        ),
        "mask_rcnn_x101_64x4d_fpn_2x": _row(
            "x101_64x4d", "pytorch", "2x", 14.1, 1.302, 4.7, box_ap=42.0, mask_ap=37.8
        ),
    },
    "fast_rcnn": {
        "fast_rcnn_r50_caffe_fpn_1x": _row("r50", "caffe", "1x", 3.5, 0.348, 14.6, box_ap=36.6),
        "fast_rcnn_r50_fpn_1x": _row("r50", "pytorch", "1x", 4.0, 0.375, 14.5, box_ap=35.8),
        "fast_rcnn_r50_fpn_2x": _row("r50", "pytorch", "2x", 4.0, 0.375, 14.5, box_ap=37.1),
        "fast_rcnn_r101_caffe_fpn_1x": _row("r101", "caffe", "1x", 7.1, 0.484, 11.9, box_ap=38.4),
        "fast_rcnn_r101_fpn_1x": _row("r101", "pytorch", "1x", 7.6, 0.54, 11.8, box_ap=38.1),
        "fast_rcnn_r101_fpn_2x": _row("r101", "pytorch", "2x", 7.6, 0.54, 11.8, box_ap=38.8),
        "fast_mask_rcnn_r50_caffe_fpn_1x": _row(
            "r50", "caffe", "1x", 5.4, 0.473, 10.7, box_ap=37.3, mask_ap=34.5
        ),
        "fast_mask_rcnn_r50_fpn_1x": _row(
            "r50", "pytorch", "1x", 5.3, 0.504, 10.6, box_ap=36.8, mask_ap=34.1
        ),
        "fast_mask_rcnn_r50_fpn_2x": _row(
            "r50", "pytorch", "2x", 5.3, 0.504, 10.6, box_ap=37.9, mask_ap=34.8
        ),
        "fast_mask_rcnn_r101_caffe_fpn_1x": _row(
            "r101", "caffe", "1x", 8.6, 0.607, 9.5, box_ap=39.4, mask_ap=36.1
        ),
        "fast_mask_rcnn_r101_fpn_1x": _row(
            "r101", "pytorch", "1x", 9.0, 0.656, 9.3, box_ap=38.9, mask_ap=35.8
        ),
        "fast_mask_rcnn_r101_fpn_2x": _row(
            "r101", "pytorch", "2x", 9.0, 0.656, 9.3, box_ap=39.9, mask_ap=36.4
        ),
    },
    "retinanet": {
        "retinanet_r50_caffe_fpn_1x": _row("r50", "caffe", "1x", 6.7, 0.468, 9.4, box_ap=35.8),
        "retinanet_r50_fpn_1x": _row("r50", "pytorch", "1x", 6.9, 0.496, 9.1, box_ap=35.6),
        "retinanet_r50_fpn_2x": _row("r50", "pytorch", "2x", 6.9, 0.496, 9.1, box_ap=36.5),
        "retinanet_r101_caffe_fpn_1x": _row("r101", "caffe", "1x", 9.2, 0.614, 8.2, box_ap=37.8),
        "retinanet_r101_fpn_1x": _row("r101", "pytorch", "1x", 9.6, 0.643, 8.1, box_ap=37.7),
        "retinanet_r101_fpn_2x": _row("r101", "pytorch", "2x", 9.6, 0.643, 8.1, box_ap=38.1),
        "retinanet_x101_32x4d_fpn_1x": _row("x101_32x4d", "pytorch", "1x", 10.8, 0.792, 6.7, box_ap=38.7),
        "retinanet_x101_32x4d_fpn_2x": _row("x101_32x4d", "pytorch", "2x", 10.8, 0.792, 6.7, box_ap=39.3),
        "retinanet_x101_64x4d_fpn_1x": _row("x101_64x4d", "pytorch", "1x", 14.6, 1.128, 5.3, box_ap=40.0),
        "retinanet_x101_64x4d_fpn_2x": _row("x101_64x4d", "pytorch", "2x", 14.6, 1.128, 5.3, box_ap=39.6),
    },
    "cascade_rcnn": {
        "cascade_rcnn_r50_caffe_fpn_1x": _row("r50", "caffe", "1x", 5.0, 0.592, 8.1, box_ap=40.3),
        "cascade_rcnn_r50_fpn_1x": _row("r50", "pytorch", "1x", 5.5, 0.622, 8.0, box_ap=40.3),
        "cascade_rcnn_r50_fpn_20e": _row("r50", "pytorch", "20e", 5.5, 0.622, 8.0, box_ap=41.1),
        "cascade_rcnn_r101_caffe_fpn_1x": _row("r101", "caffe", "1x", 8.5, 0.731, 7.0, box_ap=42.2),
        "cascade_rcnn_r101_fpn_1x": _row("r101", "pytorch", "1x", 8.7, 0.766, 6.9, box_ap=42.1),
        "cascade_rcnn_r101_fpn_20e": _row("r101", "pytorch", "20e", 8.7, 0.766, 6.9, box_ap=42.6),
        "cascade_rcnn_x101_32x4d_fpn_1x": _row("x101_32x4d", "pytorch", "1x", 10.6, 0.902, 5.7, box_ap=43.5),
        "cascade_rcnn_x101_32x4d_fpn_20e": _row(
            "x101_32x4d", "pytorch", "20e", 10.6, 0.902, 5.7, box_ap=44.1
        ),
        "cascade_rcnn_x101_64x4d_fpn_1x": _row("x101_64x4d", "pytorch", "1x", 14.1, 1.251, 4.6, box_ap=44.6),
        "cascade_rcnn_x101_64x4d_fpn_20e": _row(
            "x101_64x4d", "pytorch", "20e", 14.1, 1.251, 4.6, box_ap=44.8
        ),
    },
    "cascade_mask_rcnn": {
        "cascade_mask_rcnn_r50_caffe_fpn_1x": _row(
            "r50", "caffe", "1x", 7.5, 0.88, 5.8, box_ap=41.0, mask_ap=35.6
        ),
        "cascade_mask_rcnn_r50_fpn_1x": _row(
            "r50", "pytorch", "1x", 7.6, 0.91, 5.7, box_ap=41.3, mask_ap=35.7
        ),
        "cascade_mask_rcnn_r50_fpn_20e": _row(
            "r50", "pytorch", "20e", 7.6, 0.91, 5.7, box_ap=42.4, mask_ap=36.6
        ),
        "cascade_mask_rcnn_r101_caffe_fpn_1x": _row(
            "r101", "caffe", "1x", 10.5, 1.024, 5.3, box_ap=43.1, mask_ap=37.3
        ),
        "cascade_mask_rcnn_r101_fpn_1x": _row(
            "r101", "pytorch", "1x", 10.9, 1.055, 5.2, box_ap=42.7, mask_ap=37.1
        ),
        "cascade_mask_rcnn_r101_fpn_20e": _row(
            "r101", "pytorch", "20e", 10.9, 1.055, 5.2, box_ap=43.4, mask_ap=37.6
        ),
        "cascade_mask_rcnn_x101_32x4d_fpn_1x": _row(
            "x101_32x4d", "pytorch", "1x", 12.67, 1.181, 4.2, box_ap=44.4, mask_ap=38.3
        ),
        "cascade_mask_rcnn_x101_32x4d_fpn_20e": _row(
            "x101_32x4d", "pytorch", "20e", 12.67, 1.181, 4.2, box_ap=44.9, mask_ap=38.7
        ),
        "cascade_mask_rcnn_x101_64x4d_fpn_1x": _row(
            "x101_64x4d", "pytorch", "1x", 10.87, 1.125, 3.6, box_ap=45.5, mask_ap=39.2
        ),
        "cascade_mask_rcnn_x101_64x4d_fpn_20e": _row(
            "x101_64x4d", "pytorch", "20e", 10.87, 1.125, 3.6, box_ap=45.8, mask_ap=39.5
        ),
    },
    "ssd": {
        "ssd300_coco": _row("vgg16", "caffe", "120e", 3.5, 0.286, 22.9, box_ap=25.7, fps_batch8=29.2),
        "ssd512_coco": _row("vgg16", "caffe", "120e", 6.3, 0.458, 17.3, box_ap=29.3, fps_batch8=21.2),
    },
    "ssd_voc": {
        "ssd300_voc": _row("vgg16", "caffe", "240e", 1.2, 0.189, 40.1, box_ap=77.8, fps_batch8=58.0),
        "ssd512_voc": _row("vgg16", "caffe", "240e", 2.9, 0.261, 28.1, box_ap=80.4, fps_batch8=36.2),
    },
    "gn": {
        "mask_rcnn_r50_fpn_gn_2x": _row("r50", "pytorch", "2x", 7.2, 0.806, 5.4, box_ap=39.9, mask_ap=36.1),
        "mask_rcnn_r50_fpn_gn_3x": _row("r50", "pytorch", "3x", 7.2, 0.806, 5.4, box_ap=40.2, mask_ap=36.5),
        "mask_rcnn_r101_fpn_gn_2x": _row("r101", "pytorch", "2x", 9.9, 0.97, 4.8, box_ap=41.6, mask_ap=37.1),
        "mask_rcnn_r101_fpn_gn_3x": _row("r101", "pytorch", "3x", 9.9, 0.97, 4.8, box_ap=41.7, mask_ap=37.3),
        "mask_rcnn_r50_fpn_gn_contrib_2x": _row(
            "r50", "pytorch", "2x", 7.2, 0.806, 5.4, box_ap=39.7, mask_ap=35.9
        ),
        "mask_rcnn_r50_fpn_gn_contrib_3x": _row(
            "r50", "pytorch", "3x", 7.2, 0.806, 5.4, box_ap=40.1, mask_ap=36.2
        ),
    },
    "dcn": {
        "faster_rcnn_dconv_c3_c5_r50_fpn_1x": _row("r50", "pytorch", "1x", 3.9, 0.594, 10.2, box_ap=40.0),
        "faster_rcnn_mdconv_c3_c5_r50_fpn_1x": _row("r50", "pytorch", "1x", 3.7, 0.598, 10.0, box_ap=40.3),
        "faster_rcnn_dpool_r50_fpn_1x": _row("r50", "pytorch", "1x", 4.6, 0.714, 8.7, box_ap=37.9),
        "faster_rcnn_mdpool_r50_fpn_1x": _row("r50", "pytorch", "1x", 5.2, 0.769, 8.2, box_ap=38.1),
        "faster_rcnn_dconv_c3_c5_r101_fpn_1x": _row("r101", "pytorch", "1x", 5.8, 0.811, 8.0, box_ap=42.1),
        "faster_rcnn_dconv_c3_c5_x101_32x4d_fpn_1x": _row(
            "x101_32x4d", "pytorch", "1x", 7.1, 1.126, 6.6, box_ap=43.5
        ),
        "mask_rcnn_dconv_c3_c5_r50_fpn_1x": _row(
            "r50", "pytorch", "1x", 4.5, 0.712, 7.7, box_ap=41.1, mask_ap=37.2
        ),
        "mask_rcnn_mdconv_c3_c5_r50_fpn_1x": _row(
            "r50", "pytorch", "1x", 4.5, 0.712, 7.7, box_ap=41.4, mask_ap=37.4
        ),
        "mask_rcnn_dconv_c3_c5_r101_fpn_1x": _row(
            "r101", "pytorch", "1x", 6.4, 0.939, 6.5, box_ap=43.2, mask_ap=38.7
        ),
        "cascade_rcnn_dconv_c3_c5_r50_fpn_1x": _row("r50", "pytorch", "1x", 4.4, 0.66, 7.6, box_ap=44.1),
        "cascade_rcnn_dconv_c3_c5_r101_fpn_1x": _row("r101", "pytorch", "1x", 6.3, 0.881, 6.8, box_ap=45.1),
        "cascade_mask_rcnn_dconv_c3_c5_r50_fpn_1x": _row(
            "r50", "pytorch", "1x", 6.6, 0.942, 5.7, box_ap=44.5, mask_ap=38.3
        ),
        "cascade_mask_rcnn_dconv_c3_c5_r101_fpn_1x": _row(
            "r101", "pytorch", "1x", 8.5, 1.156, 5.1, box_ap=45.8, mask_ap=39.5
        ),
    },
}

PUBLISHED: dict[str, PublishedRow] = {
    name: replace(
        row,
        section=section,
        memory_kind="allocated" if section in _ALLOCATED else "reserved",
        images_per_step=comparison.images_per_step(section),
    )
    for section, rows in _TABLES.items()
    for name, row in rows.items()
}
"""Recipe to its row, in the page's order."""
