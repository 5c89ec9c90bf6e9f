"""What each runtime knows: the fields of its schema, its layer types, and what else it refuses.

Schemas are told as differences from BVLC Caffe's master (fields numbered below 10000 in `schema_table.MESSAGES`):
fields of it that a runtime lacks, and fields of forks that it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from surgery.formats.caffe.schema import kind_of

Feature = Literal["cudnn", "double_data", "hdf5", "rules", "v0"]

# Fields that must be set where their message is; protobuf refuses the file otherwise.
REQUIRED = {
    "ClipParameter": ("min", "max"),
    "PSROIPoolingParameter": ("spatial_scale", "output_dim", "group_size"),
}

_FIRST_FORK_NUMBER = 10_000  # The schema's numbers from here on stand for forks' fields.


@dataclass(frozen=True)
class Target:
    """One runtime, and how it reads a network.

    Attributes:
        name: What the user calls it.
        types: The layer types that it has.
        lacks: Fields of BVLC's master that its schema does not have, by message.
        adds: Fields of forks that its schema has, by message.
        lacks_values: Enum values that it does not have although some runtime does, by enum.
        without: What it cannot read: "cudnn" (`engine: CUDNN`), "double_data" (float64 weights), "hdf5" (weights in
            HDF5), "rules" (`exclude`, stages and levels), "v0" (V0 layers).
        skips_unknown_fields: Whether it passes over a field that it does not know; others refuse the whole file.
    """

    name: str
    types: frozenset[str]
    lacks: Mapping[str, frozenset[str]] = field(default_factory=dict)
    adds: Mapping[str, frozenset[str]] = field(default_factory=dict)
    lacks_values: Mapping[str, frozenset[str]] = field(default_factory=dict)
    without: frozenset[Feature] = frozenset()
    skips_unknown_fields: bool = False

    def knows_field(self, message: str, name: str) -> bool:
        """Return whether the runtime's schema has field `name` in `message`."""
        kind = kind_of(message, name)
        if kind is None or kind.number >= _FIRST_FORK_NUMBER:
            return name in self.adds.get(message, ())
        return name not in self.lacks.get(message, ())

    def knows_value(self, enum: str, value: str) -> bool:
        """Return whether the runtime has `value`, which the schema has, in `enum`."""
        return value not in self.lacks_values.get(enum, ())


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _merged(*tables: Mapping[str, str]) -> dict[str, frozenset[str]]:
    names: dict[str, frozenset[str]] = {}
    for table in tables:
        for owner, words in table.items():
            names[owner] = names.get(owner, frozenset()) | _words(words)
    return names


# Fields of BVLC's master that came after the 1.0 tag, and those that came after mid-2016.
_AFTER_1_0 = {
    "ClipParameter": "min max",
    "LayerParameter": "clip_param swish_param",
    "PoolingParameter": "round_mode",
    "SolverParameter": "weights",
    "SwishParameter": "beta",
}
_AFTER_2016 = {"InfogainLossParameter": "axis", "SolverParameter": "layer_wise_reduce"}

# What both the SSD fork and OpenCV have.
_DETECTION: dict[str, str] = {
    "NormalizedBBox": "xmin ymin xmax ymax label difficult score size",
    "LayerParameter": "detection_output_param norm_param permute_param prior_box_param",
    "NonMaximumSuppressionParameter": "nms_threshold top_k eta",
    "SaveOutputParameter": (
        "output_directory output_name_prefix output_format label_map_file name_size_file num_test_image"
    ),
    "DetectionOutputParameter": (
        "num_classes share_location background_label_id nms_param save_output_param code_type "
        "variance_encoded_in_target keep_top_k confidence_threshold"
    ),
    "NormalizeParameter": "across_spatial scale_filler channel_shared eps",
    "PermuteParameter": "order",
    "PriorBoxParameter": (
        "min_size max_size aspect_ratio flip clip variance img_size img_h img_w step step_h step_w offset"
    ),
}

_SSD: dict[str, str] = {
    "LabelMapItem": "name label display_name",
    "LabelMap": "item",
    "Sampler": "min_scale max_scale min_aspect_ratio max_aspect_ratio",
    "SampleConstraint": (
        "min_jaccard_overlap max_jaccard_overlap min_sample_coverage max_sample_coverage min_object_coverage "
        "max_object_coverage"
    ),
    "BatchSampler": "use_original_image sampler sample_constraint max_sample max_trials",
    "EmitConstraint": "emit_type emit_overlap",
    "Annotation": "instance_id bbox",
    "AnnotationGroup": "group_label annotation",
    "AnnotatedDatum": "datum type annotation_group",
    "SolverParameter": "eval_type ap_version show_per_class_result plateau_winsize",
    "SolverState": "minimum_loss iter_last_event",
    "LayerParameter": "annotated_data_param detection_evaluate_param multibox_loss_param video_data_param",
    "TransformationParameter": "crop_h crop_w resize_param noise_param distort_param expand_param emit_constraint",
    "ResizeParameter": "prob resize_mode height width height_scale width_scale pad_mode pad_value interp_mode",
    "SaltPepperParameter": "fraction value",
    "NoiseParameter": (
        "prob hist_eq inverse decolorize gauss_blur jpeg posterize erode saltpepper saltpepper_param clahe "
        "convert_to_hsv convert_to_lab"
    ),
    "DistortionParameter": (
        "brightness_prob brightness_delta contrast_prob contrast_lower contrast_upper hue_prob hue_delta "
        "saturation_prob saturation_lower saturation_upper random_order_prob"
    ),
    "ExpansionParameter": "prob max_expand_ratio",
    "AnnotatedDataParameter": "batch_sampler label_map_file anno_type",
    "DetectionEvaluateParameter": (
        "num_classes background_label_id overlap_threshold evaluate_difficult_gt name_size_file resize_param"
    ),
    "SaveOutputParameter": "resize_param",
    "DetectionOutputParameter": "visualize visualize_threshold save_file",
    "MultiBoxLossParameter": (
        "loc_loss_type conf_loss_type loc_weight num_classes share_location match_type overlap_threshold "
        "use_prior_for_matching background_label_id use_difficult_gt do_neg_mining neg_pos_ratio neg_overlap "
        "code_type encode_variance_in_target map_object_to_agnostic ignore_cross_boundary_bbox bp_inside mining_type "
        "nms_param sample_size use_prior_for_nms"
    ),
    "VideoDataParameter": "video_type device_id video_file skip_frames",
}

_OPENCV: dict[str, str] = {
    "BlobProto": "raw_data_type raw_data",
    "PriorBoxParameter": "offset_h offset_w width height",
    "DetectionOutputParameter": "normalized_bbox clip",
    "LayerParameter": "proposal_param psroi_pooling_param roi_pooling_param",
    "BatchNormParameter": "scale_bias",
    "DropoutParameter": "scale_train",
    "PoolingParameter": "ceil_mode",
    "ROIPoolingParameter": "pooled_h pooled_w spatial_scale",
    "ProposalParameter": "feat_stride base_size min_size ratio scale pre_nms_topn post_nms_topn nms_thresh",
    "PSROIPoolingParameter": "spatial_scale output_dim group_size",
}

# Values of BVLC's enums that only forks beyond these runtimes have.
_FORK_VALUES = {
    "ConvolutionParameter.Engine": "MKL2017 MKLDNN CUDNN_FORWARD",
    "LRNParameter.Engine": "MKL2017 MKLDNN",
    "LossParameter.NormalizationMode": "PRE_FIXED",
    "Phase": "QUAN INT8",
    "PoolingParameter.Engine": "MKL2017 MKLDNN",
    "ReLUParameter.Engine": "MKL2017 MKLDNN",
    "SolverParameter.SolverType": "SAG",
}

_TYPES_1_0 = _words(
    "AbsVal Accuracy ArgMax BNLL BatchNorm BatchReindex Bias Concat ContrastiveLoss Convolution Crop Data "
    "Deconvolution Dropout DummyData ELU Eltwise Embed EuclideanLoss Exp Filter Flatten HDF5Data HDF5Output HingeLoss "
    "Im2col ImageData InfogainLoss InnerProduct Input LRN LSTM LSTMUnit Log MVN MemoryData MultinomialLogisticLoss "
    "PReLU Parameter Pooling Power Python RNN ReLU Reduction Reshape SPP Scale Sigmoid SigmoidCrossEntropyLoss Silence "
    "Slice Softmax SoftmaxWithLoss Split TanH Threshold Tile WindowData"
)
_TYPES_SSD = _words(
    "AnnotatedData DetectionEvaluate DetectionOutput MultiBoxLoss Normalize Permute PriorBox SmoothL1Loss VideoData"
)
_TYPES_OPENCV = _words(
    "AbsVal BNLL BatchNorm Concat Convolution ConvolutionDepthwise Crop Deconvolution DetectionOutput Dropout ELU "
    "Eltwise Exp Flatten InnerProduct Input Interp LRN Log MVN Normalize PReLU PSROIPooling Permute Pooling Power "
    "PriorBox Proposal ROIPooling ReLU ReLU6 Reorg Region Reshape Scale ShuffleChannel Sigmoid Silence Slice Softmax "
    "Split Swish TanH"
)

_ALL = (
    Target(
        name="caffe-1.0",
        types=_TYPES_1_0,
        lacks=_merged(_AFTER_1_0),
        lacks_values=_merged(_FORK_VALUES),
    ),
    Target(name="caffe-master", types=_TYPES_1_0 | {"Clip", "Swish"}, lacks_values=_merged(_FORK_VALUES)),
    Target(
        name="caffe-ssd",
        types=_TYPES_1_0 | _TYPES_SSD,
        lacks=_merged(_AFTER_1_0, _AFTER_2016),
        adds=_merged(_DETECTION, _SSD),
        lacks_values=_merged(_FORK_VALUES),
    ),
    Target(
        name="caffe-android-lib",
        # Its build leaves out HDF5, Python and CUDA.
        types=_TYPES_1_0 - {"HDF5Data", "HDF5Output", "Python"},
        lacks=_merged(_AFTER_1_0, _AFTER_2016),
        lacks_values=_merged(_FORK_VALUES),
        without=frozenset({"cudnn", "hdf5"}),
    ),
    Target(
        name="opencv",  # OpenCV 4; OpenCV 5 reads no Caffe files.
        types=_TYPES_OPENCV,
        lacks=_merged(_AFTER_1_0, _AFTER_2016),
        adds=_merged(_DETECTION, _OPENCV),
        lacks_values=_merged(_FORK_VALUES, {"PriorBoxParameter.CodeType": "CORNER_SIZE", "Type": "BOOL"}),
        without=frozenset({"double_data", "hdf5", "rules", "v0"}),
        skips_unknown_fields=True,
    ),
)

TARGETS: Mapping[str, Target] = {target.name: target for target in _ALL}
CAFFES: tuple[Target, ...] = tuple(target for target in _ALL if target.name.startswith("caffe-"))


def names(targets: Iterable[Target]) -> tuple[str, ...]:
    """Return the targets' names."""
    return tuple(target.name for target in targets)
