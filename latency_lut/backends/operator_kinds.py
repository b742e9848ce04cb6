"""What kind of work an operator does, by the name that its runtime gives it.

An operator is memory-bound where its time is mainly that of reaching memory: reshaping, element-wise functions
(activations included), normalization and softmax. That is the sense of EfficientViT, Section 2.1 (Liu et al., CVPR
2023, arXiv:2305.07027); pooling, which it does not list, is not counted.

Runtimes fuse: a convolution with the addition and activation behind it is one operator, timed as a whole and counted as
its main operator, the convolution. Memory-bound shares are thus those of what the runtime could not fuse away.
"""

from __future__ import annotations

import re

from latency_lut.backends.base import OperatorTime

CONVOLUTION, POINTWISE, DEPTHWISE = "convolution", "pointwise convolution", "depthwise convolution"
MATMUL, SOFTMAX, NORMALIZATION = "linear, matrix product", "softmax", "normalization"
ACTIVATION, ELEMENT_WISE, MOVEMENT = "activation", "element-wise", "reshape, copy"
POOLING, OTHER = "pooling, resizing", "other"

KINDS = (
    *(CONVOLUTION, POINTWISE, DEPTHWISE, MATMUL, POOLING, OTHER),
    *(SOFTMAX, NORMALIZATION, ACTIVATION, ELEMENT_WISE, MOVEMENT),
)
MEMORY_BOUND = frozenset({SOFTMAX, NORMALIZATION, ACTIVATION, ELEMENT_WISE, MOVEMENT})

# ONNX and ONNX Runtime's own, OpenVINO's layers and PyTorch's ATen operators, as `_plain` spells them.
_TYPES = {
    CONVOLUTION: """
        conv fusedconv nhwcfusedconv qlinearconv convinteger convtranspose nhwcconv
        convolution groupconvolution convolutionbackpropdata groupconvolutionbackpropdata deconvolution
        mkldnnconvolution convolutionpointwise slowconv2d slowconv2dforward thnnconv2d convdepthwise2d cudnnconvolution
        convolutionoverrideable conv2d cudnnconvolutionrelu cudnnconvolutionaddrelu
    """,
    MATMUL: """
        matmul fusedmatmul gemm fusedgemm matmulinteger matmulintegertofloat dynamicquantizematmul qlinearmatmul qgemm
        transposematmul einsum attention multiheadattention qattention
        fullyconnected scaleddotproductattention
        linear mkldnnlinear linearpointwise mkllinear addmm mm bmm baddbmm addbmm mv addmv
        scaleddotproductflashattention scaleddotproductflashattentionforcpu scaleddotproductefficientattention
        scaleddotproductcudnnattention scaleddotproductattentionmath scaleddotproductfusedattentionoverrideable
    """,
    SOFTMAX: "softmax logsoftmax qlinearsoftmax biassoftmax safesoftmax",
    NORMALIZATION: """
        batchnormalization layernormalization simplifiedlayernormalization skiplayernormalization
        skipsimplifiedlayernormalization groupnormalization groupnorm skipgroupnorm instancenormalization
        rmsnormalization lpnormalization lrn meanvariancenormalization
        mvn rms normalizel2
        nativebatchnorm nativebatchnormlegitnotraining batchnorm cudnnbatchnorm nativelayernorm layernorm
        nativegroupnorm fusedrmsnorm
    """,
    ACTIVATION: """
        relu leakyrelu prelu elu selu celu gelu fastgelu biasgelu quickgelu silu swish hardswish hardsigmoid sigmoid
        tanh erf softplus softsign mish clip thresholdedrelu qlinearsigmoid qlinearleakyrelu
        hswish hsigmoid softsignactivation
        clamp clampmin clampmax relu6 hardtanh logsigmoid
    """,
    ELEMENT_WISE: """
        add sub mul div pow sqrt rsqrt exp log neg abs reciprocal sum min max where equal greater less not and or floor
        ceil round sign mod qlinearadd qlinearmul quantizelinear dequantizelinear dynamicquantizelinear
        eltwise subgraph multiply subtract divide power squareddifference maximum minimum fakequantize
        addcmul addcdiv rsub square eq ne gt lt ge le bitwiseand bitwisenot logicalnot
    """,
    MOVEMENT: """
        reshape transpose squeeze unsqueeze flatten slice split concat qlinearconcat gather gathernd gatherelements
        scatternd expand tile pad identity copy cast reorderinput reorderoutput depthtospace spacetodepth shape
        constantofshape range memcpyfromhost memcpytohost
        reorder convert permute stridedslice variadicsplit concatenation broadcast shapeof
        clone contiguous cat stack narrow select index indexselect unfold im2col col2im t view unsafeview reshapealias
        asstrided tocopy to constantpadnd reflectionpad2d pixelshuffle pixelunshuffle roll repeat chunk unbind
        splitwithsizes empty emptystrided emptylike fill zero zeros zeroslike ones arange detach alias dropout
        memcpy memset
    """,
    POOLING: """
        averagepool maxpool globalaveragepool globalmaxpool qlinearaveragepool qlinearglobalaveragepool lppool
        reducemean reducesum reducemax reducemin resize upsample gridsample
        pooling interpolate avgpool reduce adaptivepooling
        avgpool2d adaptiveavgpool2d adaptivemaxpool2d maxpool2d maxpool2dwithindices mean amax amin
        upsamplebilinear2d upsamplenearest2d upsamplebicubic2d
    """,
}
_KIND_OF = {name: kind for kind, names in _TYPES.items() for name in names.split()}

# Kernels that a compiler has fused from such operators name them all; the first that is found is their main operator.
_FUSED = (
    (SOFTMAX, "softmax"),
    (NORMALIZATION, "norm"),
    (POOLING, "mean|pool|upsample"),
    (ACTIVATION, "gelu|relu|silu|sigmoid|swish|tanh|erf|clamp"),
    (ELEMENT_WISE, "add|sub|mul|div|pow|sqrt|exp"),
    (MOVEMENT, "cat|clone|view|permute|copy|convolution|_mm|bmm"),  # of a product: its operands, laid out anew
)


def operator_kind(operator: OperatorTime) -> str:
    """One of `KINDS`; `OTHER` for a type that is not known here."""
    if operator.detail == "attention":  # fused: two products with a softmax between
        return MATMUL
    kind = _KIND_OF.get(_plain(operator.type), OTHER)
    if kind == CONVOLUTION:  # the backends' details tell which; without one it is dense, or grouped
        if "depthwise" in f"{operator.type} {operator.detail}":
            return DEPTHWISE
        return POINTWISE if "pointwise" in operator.detail else kind
    if kind == OTHER and "_fused_" in operator.type:
        return next((kind for kind, names in _FUSED if re.search(names, operator.type)), OTHER)
    return kind


def _plain(type_name: str) -> str:
    """Without namespace, case and punctuation: "aten::add_" is "add", "Reorder_Input" is "reorderinput"."""
    return re.sub(r"[^a-z0-9]", "", type_name.rpartition("::")[2].lower())
