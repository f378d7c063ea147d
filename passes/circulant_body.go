package passes

import (
	"fmt"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
)

// minBodyOpset is the first version of the default domain in which the body
// can be written: ConstantOfShape, which stands for Range, came with 9.
const minBodyOpset = 9

// matMulBody is lathe.BlockCirculantMatMul in standard operators, for any
// block size, so that a runtime which knows nothing of lathe runs the file.
// With F = ⌊b/2⌋ + 1 frequencies, T tokens, C = cos(2πft/b) and S = sin(2πft/b)
// of shape [F, b]:
//
//	x̂ = x·[Cᵀ | −Sᵀ]                   [T·q, 2F]  real and imaginary parts
//	ŵ = w·Cᵀ, −w·Sᵀ                    [p, q, F]  each
//	ŷ(f) = [x̂r x̂i]·[ŵr ŵi; −ŵi ŵr]    [F, T, 2p] one complex product a frequency
//	y = ŷ·[g·C; −g·S]                  [T·p, b]   g = 1/b for the real frequencies 0 and b/2, else 2/b
//
// Angles are reduced modulo b as integers first, so the tables are exact to
// rounding. Everything that depends on W alone is folded by a runtime that
// folds constants. Range, Mod, Pad, Squeeze and Unsqueeze are avoided because
// they are missing from old opsets or changed their form; zeros are
// concatenated where X has to be padded. %[1]s to %[3]s are the forms that
// differ between opsets.
const matMulBody = `
<
  domain: "lathe",
  opset_import: ["": %[4]d]
>
BlockCirculantMatMul <out_features> (X, W, B) => (Y)
{
  i0 = Constant <value = int64[1] {0}> ()
  i1 = Constant <value = int64[1] {1}> ()
  i2 = Constant <value = int64[1] {2}> ()
  im1 = Constant <value = int64[1] {-1}> ()
  row = Constant <value = int64[2] {1, -1}> ()
  column = Constant <value = int64[2] {-1, 1}> ()

  shape_w = Shape (W)
  p = Gather <axis = 0> (shape_w, i0)
  q = Gather <axis = 0> (shape_w, i1)
  b = Gather <axis = 0> (shape_w, i2)
  m = Shape (B)
  half = Div (b, i2)
  F = Add (half, i1)
  F2 = Add (F, F)

  ones_b = ConstantOfShape <value = int64[1] {1}> (b)
  nz_b = NonZero (ones_b)
  t = Reshape (nz_b, row)
  ones_f = ConstantOfShape <value = int64[1] {1}> (F)
  nz_f = NonZero (ones_f)
  f = Reshape (nz_f, column)
  ft = Mul (f, t)
  ft_turns = Div (ft, b)
  ft_whole = Mul (ft_turns, b)
  ft_mod = Sub (ft, ft_whole)
  ft_float = Cast <to = 1> (ft_mod)
  b_float = Cast <to = 1> (b)
  tau = Constant <value = float[1] {6.2831853}> ()
  step = Div (tau, b_float)
  angle = Mul (ft_float, step)
  C = Cos (angle)
  S = Sin (angle)
  minus_S = Neg (S)

  f_twice = Mul (f, i2)
  f_twice_turns = Div (f_twice, b)
  f_twice_whole = Mul (f_twice_turns, b)
  is_real = Equal (f_twice, f_twice_whole)
  is_real_float = Cast <to = 1> (is_real)
  two = Constant <value = float[1] {2}> ()
  weight = Sub (two, is_real_float)
  g = Div (weight, b_float)
  inverse_re = Mul (C, g)
  inverse_im = Mul (minus_S, g)
  inverse = Concat <axis = 0> (inverse_re, inverse_im)
  forward_rows = Concat <axis = 0> (C, minus_S)
  forward = Transpose <perm = [1, 0]> (forward_rows)

  Ct = Transpose <perm = [1, 0]> (C)
  minus_St = Transpose <perm = [1, 0]> (minus_S)
  w_re = MatMul (W, Ct)
  w_im = MatMul (W, minus_St)
  re = Transpose <perm = [2, 1, 0]> (w_re)
  im = Transpose <perm = [2, 1, 0]> (w_im)
  minus_im = Neg (im)
  upper = Concat <axis = 2> (re, im)
  lower = Concat <axis = 2> (minus_im, re)
  spectra = Concat <axis = 1> (upper, lower)

  shape_x = Shape (X)
  rank = Shape (shape_x)
  last = Sub (rank, i1)
%[1]s
  flat_shape = Concat <axis = 0> (im1, n)
  flat = Reshape (X, flat_shape)
  shape_flat = Shape (flat)
  T = Gather <axis = 0> (shape_flat, i0)
  qb = Mul (q, b)
  missing = Sub (qb, n)
  pad_shape = Concat <axis = 0> (T, missing)
  zeros = ConstantOfShape <value = float[1] {0}> (pad_shape)
  padded = Concat <axis = 1> (flat, zeros)

  blocks_shape = Concat <axis = 0> (im1, b)
  blocks = Reshape (padded, blocks_shape)
  x_hat = MatMul (blocks, forward)
  x_hat_shape = Concat <axis = 0> (im1, q, i2, F)
  x_hat4 = Reshape (x_hat, x_hat_shape)
  x_planes = Transpose <perm = [3, 0, 2, 1]> (x_hat4)
  q2 = Add (q, q)
  x_rows_shape = Concat <axis = 0> (F, im1, q2)
  x_rows = Reshape (x_planes, x_rows_shape)
  y_rows = MatMul (x_rows, spectra)
  y_rows_shape = Concat <axis = 0> (F, im1, i2, p)
  y_rows4 = Reshape (y_rows, y_rows_shape)
  y_planes = Transpose <perm = [1, 3, 2, 0]> (y_rows4)
  y_hat_shape = Concat <axis = 0> (im1, F2)
  y_hat = Reshape (y_planes, y_hat_shape)
  y_blocks = MatMul (y_hat, inverse)
  pb = Mul (p, b)
  y_flat_shape = Concat <axis = 0> (im1, pb)
  y_flat = Reshape (y_blocks, y_flat_shape)
%[2]s
  y_bias = Add (y_cut, B)
%[3]s
  y_shape = Concat <axis = 0> (lead, m)
  Y = Reshape (y_bias, y_shape)
}
`

// matMulFunction returns the function for models of that opset. From opset 10
// on Slice takes its bounds as inputs; before that they are attributes, which a
// body for every size cannot use, and Gather with positions counted by NonZero
// takes its place.
func matMulFunction(opset int64) (*graph.Function, error) {
	if opset < minBodyOpset {
		return nil, fmt.Errorf("the body of BlockCirculantMatMul needs opset %d, the model has %d; upgrade the model first", minBodyOpset, opset)
	}
	n := "  n = Slice (shape_x, last, rank, i0)"
	cut := "  y_cut = Slice (y_flat, i0, m, i1)"
	lead := "  lead = Slice (shape_x, i0, last, i0)"
	if opset < 10 {
		n = "  n = Gather <axis = 0> (shape_x, last)"
		cut = `  ones_m = ConstantOfShape <value = int64[1] {1}> (m)
  nz_m = NonZero (ones_m)
  at_m = Reshape (nz_m, im1)
  y_cut = Gather <axis = 1> (y_flat, at_m)`
		lead = `  ones_lead = ConstantOfShape <value = int64[1] {1}> (last)
  nz_lead = NonZero (ones_lead)
  at_lead = Reshape (nz_lead, im1)
  lead = Gather <axis = 0> (shape_x, at_lead)`
	}
	text := "<ir_version: 8, opset_import: [\"\": 17]>\nnone () => () {}\n" + fmt.Sprintf(matMulBody, n, cut, lead, opset)
	m, err := graph.Parse(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("body of BlockCirculantMatMul: %w", err)
	}
	return m.Functions[0], nil
}
