package passes

import (
	"fmt"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
)

// minBodyOpset is the first version of the default domain in which the body
// can be written: ConstantOfShape, which helps to count, came with 9.
const minBodyOpset = 9

// matMulBody is lathe.BlockCirculantMatMul in standard operators, for any
// block size, so that a runtime which knows nothing of lathe runs the file.
// With F = ⌊b/2⌋ + 1 frequencies, T tokens, C = cos(2πft/b) and S = sin(2πft/b)
// of shape [F, b], and the blocks of x as rows of a matrix [T·q, b],
//
//	x̂ = C·xᵀ, −S·xᵀ                  [F, T·q]   real and imaginary parts
//	ŵ = C·wᵀ, −S·wᵀ                  [F, p·q]
//	ŷr(f) = [x̂r x̂i]·[ŵr; −ŵi]ᵀ       [F, T, p]  one complex product a frequency
//	ŷi(f) = [x̂r x̂i]·[ŵi; ŵr]ᵀ
//	y = [ŷr; ŷi]ᵀ·[g·C; −g·S]        [T·p, b]   g = 1/b for the real frequencies 0 and b/2, else 2/b
//
// Frequencies come first from the beginning to the end, so that nothing of the
// size of the inputs or outputs is transposed: ONNX Runtime fuses the transposes
// of x and ŷ with the products, and apart they took more than half of its time.
//
// Angles are reduced modulo b as integers first, so the tables are exact to
// rounding. Everything that depends on W alone is folded by a runtime that
// folds constants. Mod, Pad, Squeeze and Unsqueeze are avoided because they are
// missing from old opsets or changed their form; zeros are concatenated where X
// has to be padded. %[1]s to %[4]s are the forms that differ between opsets.
const matMulBody = `
<
  domain: "lathe",
  opset_import: ["": %[5]d]
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

%[1]s
  t = Reshape (to_b, row)
  f = Reshape (to_f, column)
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

  w_blocks_shape = Concat <axis = 0> (im1, b)
  w_blocks = Reshape (W, w_blocks_shape)
  w_columns = Transpose <perm = [1, 0]> (w_blocks)
  w_re = MatMul (C, w_columns)
  w_im = MatMul (minus_S, w_columns)
  w_shape = Concat <axis = 0> (F, p, q)
  w_re3 = Reshape (w_re, w_shape)
  w_im3 = Reshape (w_im, w_shape)
  re = Transpose <perm = [0, 2, 1]> (w_re3)
  im = Transpose <perm = [0, 2, 1]> (w_im3)
  minus_im = Neg (im)
  to_re = Concat <axis = 1> (re, minus_im)
  to_im = Concat <axis = 1> (im, re)

  shape_x = Shape (X)
  rank = Shape (shape_x)
  last = Sub (rank, i1)
%[2]s
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
  columns = Transpose <perm = [1, 0]> (blocks)
  x_re = MatMul (C, columns)
  x_im = MatMul (minus_S, columns)
  x_hat_shape = Concat <axis = 0> (F, im1, q)
  x_re3 = Reshape (x_re, x_hat_shape)
  x_im3 = Reshape (x_im, x_hat_shape)
  x_hat = Concat <axis = 2> (x_re3, x_im3)
  y_re = MatMul (x_hat, to_re)
  y_im = MatMul (x_hat, to_im)
  y_hat_shape = Concat <axis = 0> (F, im1)
  y_re2 = Reshape (y_re, y_hat_shape)
  y_im2 = Reshape (y_im, y_hat_shape)
  y_hat = Concat <axis = 0> (y_re2, y_im2)
  y_rows = Transpose <perm = [1, 0]> (y_hat)
  y_blocks = MatMul (y_rows, inverse)
%[3]s
  pb = Mul (p, b)
  y_shape = Concat <axis = 0> (lead, pb)
  y_padded = Reshape (y_blocks, y_shape)
%[4]s
  Y = Add (y_cut, B)
}
`

// countFrom0 sets %[3]s to 0, 1, … below %[2]s where there is no Range.
const countFrom0 = `  ones_%[1]s = ConstantOfShape <value = int64[1] {1}> (%[2]s)
  nz_%[1]s = NonZero (ones_%[1]s)
  %[3]s = Reshape (nz_%[1]s, im1)`

// matMulFunction returns the function for models of that opset. From opset 11 on
// Range counts; before that NonZero of ones does, which ONNX Runtime does not
// fold. From opset 10 on Slice takes its bounds as inputs; before that they are
// attributes, which a body for every size cannot use, and Gather takes its place.
func matMulFunction(opset int64) (*graph.Function, error) {
	if opset < minBodyOpset {
		return nil, fmt.Errorf("the body of BlockCirculantMatMul needs opset %d, the model has %d; upgrade the model first", minBodyOpset, opset)
	}
	to := `  zero = Constant <value = int64 {0}> ()
  one = Constant <value = int64 {1}> ()
  scalar = Constant <value = int64[0] {}> ()
  b0 = Reshape (b, scalar)
  F0 = Reshape (F, scalar)
  to_b = Range (zero, b0, one)
  to_f = Range (zero, F0, one)`
	n := "  n = Slice (shape_x, last, rank, i0)"
	lead := "  lead = Slice (shape_x, i0, last, i0)"
	cut := "  y_cut = Slice (y_padded, i0, m, last)"
	if opset < 11 {
		to = fmt.Sprintf(countFrom0, "b", "b", "to_b") + "\n" + fmt.Sprintf(countFrom0, "f", "F", "to_f")
	}
	if opset < 10 {
		n = "  n = Gather <axis = 0> (shape_x, last)"
		lead = fmt.Sprintf(countFrom0, "lead", "last", "at_lead") + "\n  lead = Gather <axis = 0> (shape_x, at_lead)"
		cut = fmt.Sprintf(countFrom0, "m", "m", "at_m") + "\n  y_cut = Gather <axis = -1> (y_padded, at_m)"
	}
	text := "<ir_version: 8, opset_import: [\"\": 17]>\nnone () => () {}\n" + fmt.Sprintf(matMulBody, to, n, lead, cut, opset)
	m, err := graph.Parse(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("body of BlockCirculantMatMul: %w", err)
	}
	return m.Functions[0], nil
}

// convBody is lathe.BlockCirculantConv in standard operators: a convolution with
// the matrix of channels written out at every tap,
//
//	dense[i·b + a, j·b + c, k…] = W[i, j, (a − c) mod b, k…],
//
// cut to the channels of B, group by group. A runtime that folds constants is left
// with a plain Conv. Frequencies apart, as in matMulBody, would be a convolution with as many
// groups as the block size calls for, and the number of groups is an attribute,
// which a body for every block size cannot compute. For the same reason the number of
// groups is counted: as the outputs of a ConvTranspose of p inputs, each group of which
// gives one. X is padded with zeros to whole blocks; where it has whole ones already,
// nothing is added.
const convBody = `
<
  domain: "lathe",
  opset_import: ["": %[4]d]
>
BlockCirculantConv <out_channels, auto_pad, dilations, group, kernel_shape, pads, strides> (X, W, B) => (Y)
{
  i0 = Constant <value = int64[1] {0}> ()
  i1 = Constant <value = int64[1] {1}> ()
  i2 = Constant <value = int64[1] {2}> ()
  i3 = Constant <value = int64[1] {3}> ()
  im1 = Constant <value = int64[1] {-1}> ()
  row = Constant <value = int64[2] {1, -1}> ()
  column = Constant <value = int64[2] {-1, 1}> ()

  shape_w = Shape (W)
  p = Gather <axis = 0> (shape_w, i0)
  q = Gather <axis = 0> (shape_w, i1)
  b = Gather <axis = 0> (shape_w, i2)
  pb = Mul (p, b)
  qb = Mul (q, b)
  m = Shape (B)
  counted_shape = Concat <axis = 0> (i1, p, i1)
  counted = ConstantOfShape <value = float[1] {0}> (counted_shape)
  counter_shape = Concat <axis = 0> (p, i1, i1)
  counter = ConstantOfShape <value = float[1] {0}> (counter_shape)
  counts = ConvTranspose <group: int = @group> (counted, counter)
  shape_counts = Shape (counts)
  G = Gather <axis = 0> (shape_counts, i1)

%[1]s
  a = Reshape (to_b, column)
  c = Reshape (to_b, row)
  a_minus_c = Sub (a, c)
  turned = Add (a_minus_c, b)
  turns = Div (turned, b)
  whole = Mul (turns, b)
  index = Sub (turned, whole)
  w_shape = Concat <axis = 0> (p, q, b, im1)
  w = Reshape (W, w_shape)
  w_dense = Gather <axis = 2> (w, index)
  w_rows = Transpose <perm = [0, 2, 1, 3, 4]> (w_dense)
%[2]s
  group_rows = Div (pb, G)
  group_m = Div (m, G)
  rows_shape = Concat <axis = 0> (G, group_rows, im1)
  rows_padded = Reshape (w_rows, rows_shape)
%[3]s
  dense_shape = Concat <axis = 0> (m, qb, kernel)
  dense = Reshape (rows, dense_shape)

  shape_x = Shape (X)
  channels = Gather <axis = 0> (shape_x, i1)
  group_channels = Div (channels, G)
  missing = Sub (qb, group_channels)
%[5]s
  groups_shape = Concat <axis = 0> (samples, G, group_channels, spatial)
  groups = Reshape (X, groups_shape)
  zeros_shape = Concat <axis = 0> (samples, G, missing, spatial)
  zeros = ConstantOfShape <value = float[1] {0}> (zeros_shape)
  padded = Concat <axis = 2> (groups, zeros)
  whole_channels = Mul (G, qb)
  x_shape = Concat <axis = 0> (samples, whole_channels, spatial)
  x = Reshape (padded, x_shape)
  Y = Conv <auto_pad: string = @auto_pad, dilations: ints = @dilations, group: int = @group, kernel_shape: ints = @kernel_shape, pads: ints = @pads, strides: ints = @strides> (x, dense, B)
}
`

// convFunction returns the function for models of that opset; see matMulFunction
// for what differs.
func convFunction(opset int64) (*graph.Function, error) {
	if opset < minBodyOpset {
		return nil, fmt.Errorf("the body of BlockCirculantConv needs opset %d, the model has %d; upgrade the model first", minBodyOpset, opset)
	}
	to := `  zero = Constant <value = int64 {0}> ()
  one = Constant <value = int64 {1}> ()
  scalar = Constant <value = int64[0] {}> ()
  b0 = Reshape (b, scalar)
  to_b = Range (zero, b0, one)`
	if opset < 11 {
		to = fmt.Sprintf(countFrom0, "b", "b", "to_b")
	}
	kernel := `  rank_w = Shape (shape_w)
  kernel = Slice (shape_w, i3, rank_w, i0)`
	cut := "  rows = Slice (rows_padded, i0, group_m, i1)"
	dims := `  samples = Gather <axis = 0> (shape_x, i0)
  rank_x = Shape (shape_x)
  spatial = Slice (shape_x, i2, rank_x, i0)`
	if opset < 10 {
		// The dims of the kernel and of the images are counted from the third and the
		// second one on.
		kernel = "  rank_w = Shape (shape_w)\n  kernel_dims = Sub (rank_w, i3)\n" + fmt.Sprintf(countFrom0, "kernel", "kernel_dims", "nth_kernel") + `
  at_kernel = Add (nth_kernel, i3)
  kernel = Gather <axis = 0> (shape_w, at_kernel)`
		cut = fmt.Sprintf(countFrom0, "m", "group_m", "at_m") + "\n  rows = Gather <axis = 1> (rows_padded, at_m)"
		dims = `  samples = Gather <axis = 0> (shape_x, i0)
  at_spatial = Add (nth_kernel, i2)
  spatial = Gather <axis = 0> (shape_x, at_spatial)`
	}
	text := "<ir_version: 8, opset_import: [\"\": 17]>\nnone () => () {}\n" + fmt.Sprintf(convBody, to, kernel, cut, opset, dims)
	m, err := graph.Parse(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("body of BlockCirculantConv: %w", err)
	}
	return m.Functions[0], nil
}
