"""Neural networks into neural operators: layers that are integrals, a converter, a checker (arXiv 2506.10973)."""

from nn2no import quadrature
from nn2no.attention import QuadratureAttention, quadrature_attention
from nn2no.convergence import ConvergenceReport, check_discretization_convergence
from nn2no.conversion import ConversionReport, ConvertedOperator, convert, explain
from nn2no.differential import DifferentialConv, DifferentialConv2d
from nn2no.disco import DiscoConv2d
from nn2no.embedding import CoordinateEmbedding
from nn2no.encoding import (
    FourierBasis,
    FunctionDecoder,
    FunctionEncoder,
    GridBasis,
    IntegralReadout,
    LearnedBasis,
    NonlinearDecoder,
    PointSensors,
)
from nn2no.errors import ConversionError, ResolutionWarning
from nn2no.graph import GraphKernelIntegral, IntegralTransform, radius_graph
from nn2no.interop import from_neuralop, to_neuralop
from nn2no.io_interpolation import interpolate_io
from nn2no.local import (
    IntegralConv1d,
    IntegralConv2d,
    IntegralConv3d,
    integral_conv,
    integral_conv_transpose,
    refine_kernel,
)
from nn2no.models.deeponet import NOMAD, DeepONet
from nn2no.models.fno import FNO, LocalNO
from nn2no.models.gno import GNO
from nn2no.models.oformer import OFormer
from nn2no.models.unet import UNet, UNetNO
from nn2no.models.vit import ViT, ViTNO
from nn2no.multiresolution import MultiResolutionLoader
from nn2no.norms import QuadratureNorm
from nn2no.pointwise import ChannelLinear, ChannelMLP
from nn2no.problems.navier_stokes import NavierStokes
from nn2no.problems.poisson_cloud import PoissonCloud
from nn2no.resample import Antialiased, FourierResize, LinearResize, fourier_resize, linear_resize
from nn2no.spectral import SpectralConv

__all__ = [
    "FNO",
    "GNO",
    "NOMAD",
    "Antialiased",
    "ChannelLinear",
    "ChannelMLP",
    "ConvergenceReport",
    "ConversionError",
    "ConversionReport",
    "ConvertedOperator",
    "CoordinateEmbedding",
    "DeepONet",
    "DifferentialConv",
    "DifferentialConv2d",
    "DiscoConv2d",
    "FourierBasis",
    "FourierResize",
    "FunctionDecoder",
    "FunctionEncoder",
    "GraphKernelIntegral",
    "GridBasis",
    "IntegralConv1d",
    "IntegralConv2d",
    "IntegralConv3d",
    "IntegralReadout",
    "IntegralTransform",
    "LearnedBasis",
    "LinearResize",
    "LocalNO",
    "MultiResolutionLoader",
    "NavierStokes",
    "NonlinearDecoder",
    "OFormer",
    "PointSensors",
    "PoissonCloud",
    "QuadratureAttention",
    "QuadratureNorm",
    "ResolutionWarning",
    "SpectralConv",
    "UNet",
    "UNetNO",
    "ViT",
    "ViTNO",
    "check_discretization_convergence",
    "convert",
    "explain",
    "fourier_resize",
    "from_neuralop",
    "integral_conv",
    "integral_conv_transpose",
    "interpolate_io",
    "linear_resize",
    "quadrature",
    "quadrature_attention",
    "radius_graph",
    "refine_kernel",
    "to_neuralop",
]
