"""Where the zoo's files of weights are published: a file for each recipe, and the hosts that have them all.

Source: the links of the reference page (`docs/zoo.md`, appendix A), which has none for rows of caffe style.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from kubedet_trainer.errors import InvalidInput

MIRRORS = (
    "https://download.openmmlab.com",
    "https://open-mmlab.oss-cn-beijing.aliyuncs.com",
    "https://s3.ap-northeast-2.amazonaws.com/open-mmlab",
)
"""Base addresses of the same files: the content network of today, the mirror and the bucket of 2019."""

_TORCHVISION = "https://download.pytorch.org"
_FOLDER = "mmdetection/models"

_FILES = {
    "rpn_r50_fpn_1x": "rpn_r50_fpn_1x_20181010-4a9c0712",
    "rpn_r50_fpn_2x": "rpn_r50_fpn_2x_20181010-88a4a471",
    "rpn_r101_fpn_1x": "rpn_r101_fpn_1x_20181129-f50da4bd",
    "rpn_r101_fpn_2x": "rpn_r101_fpn_2x_20181129-e42c6c9a",
    "rpn_x101_32x4d_fpn_1x": "rpn_x101_32x4d_fpn_1x_20181218-7e379d26",
    "rpn_x101_32x4d_fpn_2x": "rpn_x101_32x4d_fpn_2x_20181218-0510af40",
    "rpn_x101_64x4d_fpn_1x": "rpn_x101_64x4d_fpn_1x_20181218-c1a24f1f",
    "rpn_x101_64x4d_fpn_2x": "rpn_x101_64x4d_fpn_2x_20181218-c22bdd70",
    "faster_rcnn_r50_fpn_1x": "faster_rcnn_r50_fpn_1x_20181010-3d1b3351",
    "faster_rcnn_r50_fpn_2x": "faster_rcnn_r50_fpn_2x_20181010-443129e1",
    "faster_rcnn_r101_fpn_1x": "faster_rcnn_r101_fpn_1x_20181129-d1468807",
    "faster_rcnn_r101_fpn_2x": "faster_rcnn_r101_fpn_2x_20181129-73e7ade7",
    "faster_rcnn_x101_32x4d_fpn_1x": "faster_rcnn_x101_32x4d_fpn_1x_20181218-ad81c133",
    "faster_rcnn_x101_32x4d_fpn_2x": "faster_rcnn_x101_32x4d_fpn_2x_20181218-0ed58946",
    "faster_rcnn_x101_64x4d_fpn_1x": "faster_rcnn_x101_64x4d_fpn_1x_20181218-c9c69c8f",
    "faster_rcnn_x101_64x4d_fpn_2x": "faster_rcnn_x101_64x4d_fpn_2x_20181218-fe94f9b8",
    "mask_rcnn_r50_fpn_1x": "mask_rcnn_r50_fpn_1x_20181010-069fa190",
    "mask_rcnn_r50_fpn_2x": "mask_rcnn_r50_fpn_2x_20181010-41d35c05",
    "mask_rcnn_r101_fpn_1x": "mask_rcnn_r101_fpn_1x_20181129-34ad1961",
    "mask_rcnn_r101_fpn_2x": "mask_rcnn_r101_fpn_2x_20181129-a254bdfc",
    "mask_rcnn_x101_32x4d_fpn_1x": "mask_rcnn_x101_32x4d_fpn_1x_20181218-44e635cc",
    "mask_rcnn_x101_32x4d_fpn_2x": "mask_rcnn_x101_32x4d_fpn_2x_20181218-f023dffa",
    "mask_rcnn_x101_64x4d_fpn_1x": "mask_rcnn_x101_64x4d_fpn_1x_20181218-cb159987",
    "mask_rcnn_x101_64x4d_fpn_2x": "mask_rcnn_x101_64x4d_fpn_2x_20181218-ea936e44",
    "fast_rcnn_r50_fpn_1x": "fast_rcnn_r50_fpn_1x_20181010-08160859",
    "fast_rcnn_r50_fpn_2x": "fast_rcnn_r50_fpn_2x_20181010-d263ada5",
    "fast_rcnn_r101_fpn_1x": "fast_rcnn_r101_fpn_1x_20181129-ffaa2eb0",
    "fast_rcnn_r101_fpn_2x": "fast_rcnn_r101_fpn_2x_20181129-9dba92ce",
    "fast_mask_rcnn_r50_fpn_1x": "fast_mask_rcnn_r50_fpn_1x_20181010-e030a38f",
    "fast_mask_rcnn_r50_fpn_2x": "fast_mask_rcnn_r50_fpn_2x_20181010-5048cb03",
    "fast_mask_rcnn_r101_fpn_1x": "fast_mask_rcnn_r101_fpn_1x_20181129-2273fa9b",
    "fast_mask_rcnn_r101_fpn_2x": "fast_mask_rcnn_r101_fpn_2x_20181129-bf63ec5e",
    "retinanet_r50_fpn_1x": "retinanet_r50_fpn_1x_20181125-3d3c2142",
    "retinanet_r50_fpn_2x": "retinanet_r50_fpn_2x_20181125-e0dbec97",
    "retinanet_r101_fpn_1x": "retinanet_r101_fpn_1x_20181129-f738a02f",
    "retinanet_r101_fpn_2x": "retinanet_r101_fpn_2x_20181129-f654534b",
    "retinanet_x101_32x4d_fpn_1x": "retinanet_x101_32x4d_fpn_1x_20181218-c140fb82",
    "retinanet_x101_32x4d_fpn_2x": "retinanet_x101_32x4d_fpn_2x_20181218-605dcd0a",
    "retinanet_x101_64x4d_fpn_1x": "retinanet_x101_64x4d_fpn_1x_20181218-2f6f778b",
    "retinanet_x101_64x4d_fpn_2x": "retinanet_x101_64x4d_fpn_2x_20181218-2f598dc5",
    "cascade_rcnn_r50_fpn_1x": "cascade_rcnn_r50_fpn_1x_20181123-b1987c4a",
    "cascade_rcnn_r50_fpn_20e": "cascade_rcnn_r50_fpn_20e_20181123-db483a09",
    "cascade_rcnn_r101_fpn_1x": "cascade_rcnn_r101_fpn_1x_20181129-d64ebac7",
    "cascade_rcnn_r101_fpn_20e": "cascade_rcnn_r101_fpn_20e_20181129-b46dcede",
    "cascade_rcnn_x101_32x4d_fpn_1x": "cascade_rcnn_x101_32x4d_fpn_1x_20181218-941c0925",
    "cascade_rcnn_x101_32x4d_fpn_20e": "cascade_rcnn_x101_32x4d_fpn_2x_20181218-28f73c4c",
    "cascade_rcnn_x101_64x4d_fpn_1x": "cascade_rcnn_x101_64x4d_fpn_1x_20181218-e2dc376a",
    "cascade_rcnn_x101_64x4d_fpn_20e": "cascade_rcnn_x101_64x4d_fpn_2x_20181218-5add321e",
    "cascade_mask_rcnn_r50_fpn_1x": "cascade_mask_rcnn_r50_fpn_1x_20181123-88b170c9",
    "cascade_mask_rcnn_r50_fpn_20e": "cascade_mask_rcnn_r50_fpn_20e_20181123-6e0c9713",
    "cascade_mask_rcnn_r101_fpn_1x": "cascade_mask_rcnn_r101_fpn_1x_20181129-64f00602",
    "cascade_mask_rcnn_r101_fpn_20e": "cascade_mask_rcnn_r101_fpn_20e_20181129-cb85151d",
    "cascade_mask_rcnn_x101_32x4d_fpn_1x": "cascade_mask_rcnn_x101_32x4d_fpn_1x_20181218-1d944c89",
    "cascade_mask_rcnn_x101_32x4d_fpn_20e": "cascade_mask_rcnn_x101_32x4d_fpn_20e_20181218-761a3473",
    "cascade_mask_rcnn_x101_64x4d_fpn_1x": "cascade_mask_rcnn_x101_64x4d_fpn_1x_20181218-85953a91",
    "cascade_mask_rcnn_x101_64x4d_fpn_20e": "cascade_mask_rcnn_x101_64x4d_fpn_20e_20181218-630773a7",
    "ssd300_coco": "ssd300_coco_vgg16_caffe_120e_20181221-84d7110b",
    "ssd512_coco": "ssd512_coco_vgg16_caffe_120e_20181221-d48b0be8",
    "ssd300_voc": "ssd300_voc_vgg16_caffe_240e_20181221-2f05dd40",
    "ssd512_voc": "ssd512_voc_vgg16_caffe_240e_20181221-7652ee18",
    "mask_rcnn_r50_fpn_gn_2x": "gn/mask_rcnn_r50_fpn_gn_2x_20180113-86832cf2",
    "mask_rcnn_r50_fpn_gn_3x": "gn/mask_rcnn_r50_fpn_gn_3x_20180113-8e82f48d",
    "mask_rcnn_r101_fpn_gn_2x": "gn/mask_rcnn_r101_fpn_gn_2x_20180113-9598649c",
    "mask_rcnn_r101_fpn_gn_3x": "gn/mask_rcnn_r101_fpn_gn_3x_20180113-a14ffb96",
    "mask_rcnn_r50_fpn_gn_contrib_2x": "gn/mask_rcnn_r50_fpn_gn_contrib_2x_20180113-ec93305c",
    "mask_rcnn_r50_fpn_gn_contrib_3x": "gn/mask_rcnn_r50_fpn_gn_contrib_3x_20180113-9d230cab",
    "faster_rcnn_dconv_c3_c5_r50_fpn_1x": "dcn/faster_rcnn_dconv_c3-c5_r50_fpn_1x_20190125-e41688c9",
    "faster_rcnn_mdconv_c3_c5_r50_fpn_1x": "dcn/faster_rcnn_mdconv_c3-c5_r50_fpn_1x_20190125-1b768045",
    "faster_rcnn_dpool_r50_fpn_1x": "dcn/faster_rcnn_dpool_r50_fpn_1x_20190125-f4fc1d70",
    "faster_rcnn_mdpool_r50_fpn_1x": "dcn/faster_rcnn_mdpool_r50_fpn_1x_20190125-473d0f3d",
    "faster_rcnn_dconv_c3_c5_r101_fpn_1x": "dcn/faster_rcnn_dconv_c3-c5_r101_fpn_1x_20190125-a7e31b65",
    "faster_rcnn_dconv_c3_c5_x101_32x4d_fpn_1x": (
        "dcn/faster_rcnn_dconv_c3-c5_x101_32x4d_fpn_1x_20190201-6d46376f"
    ),
    "mask_rcnn_dconv_c3_c5_r50_fpn_1x": "dcn/mask_rcnn_dconv_c3-c5_r50_fpn_1x_20190125-4f94ff79",
    "mask_rcnn_mdconv_c3_c5_r50_fpn_1x": "dcn/mask_rcnn_mdconv_c3-c5_r50_fpn_1x_20190125-c5601dc3",
    "mask_rcnn_dconv_c3_c5_r101_fpn_1x": "dcn/mask_rcnn_dconv_c3-c5_r101_fpn_1x_20190125-decb6db5",
    "cascade_rcnn_dconv_c3_c5_r50_fpn_1x": "dcn/cascade_rcnn_dconv_c3-c5_r50_fpn_1x_20190125-dfa53166",
    "cascade_rcnn_dconv_c3_c5_r101_fpn_1x": "dcn/cascade_rcnn_dconv_c3-c5_r101_fpn_1x_20190125-aaa877cc",
    "cascade_mask_rcnn_dconv_c3_c5_r50_fpn_1x": (
        "dcn/cascade_mask_rcnn_dconv_c3-c5_r50_fpn_1x_20190125-09d8a443"
    ),
    "cascade_mask_rcnn_dconv_c3_c5_r101_fpn_1x": (
        "dcn/cascade_mask_rcnn_dconv_c3-c5_r101_fpn_1x_20190125-0d62c190"
    ),
}
"""Recipe to its file below that folder, without the suffix; the digits at the end start its SHA-256."""

_RECIPES = {f"{PurePosixPath(file).name}.pth": recipe for recipe, file in _FILES.items()}


def published_uri(recipe: str) -> str:
    """The address of the weights that the zoo published for `recipe`.

    Raises:
        InvalidInput: it published none.
    """
    if recipe not in _FILES:
        raise InvalidInput(
            f"weights: the zoo published none for '{recipe}', must be the URI of a file; `kubedet recipes "
            "--published` lists the recipes that have one"
        )
    return f"{MIRRORS[0]}/{_FOLDER}/{_FILES[recipe]}.pth"


def has_published_file(recipe: str) -> bool:
    """Whether the zoo published weights for `recipe`."""
    return recipe in _FILES


def recipe_of(file_name: str) -> str | None:
    """The recipe whose weights the zoo published under `file_name`, which ends with their hash; None else."""
    return _RECIPES.get(file_name)


def addresses(uri: str, *, mirror: str | None = None) -> list[str]:
    """Where the file at `uri` may be had, in the order to try; what nobody publishes is only there.

    A `mirror`, the base address of the user's own, stands for all others; it keeps either the path that the
    file has below its publisher's base, or only its name.
    """
    base = next((base for base in (*MIRRORS, _TORCHVISION) if uri.startswith(f"{base}/")), None)
    if base is None:
        return [uri]
    path = uri.removeprefix(f"{base}/")
    if mirror:
        return [f"{mirror.rstrip('/')}/{path}", f"{mirror.rstrip('/')}/{path.rpartition('/')[2]}"]
    return [f"{place}/{path}" for place in MIRRORS] if base in MIRRORS else [uri]
