package main

import (
	"math"
	"strconv"
	"strings"
	"testing"
)

// approximations is how the coefficients of activation.go come about: on
// [lo, hi], the polynomial p for which max weight·|p − f| is least.
var approximations = []struct {
	name      string
	coef      []float64 // what the kernels use
	lo, hi    float64
	f, weight func(float64) float64
	bits      float64 // −log₂ of the error that the comment of coef states
}{
	{"expCoef", expCoef, -math.Ln2 / 2, math.Ln2 / 2, expRest,
		func(r float64) float64 { return math.Ln2 * math.Ln2 / 4 }, 26.8},
	{"erfCoef", erfCoef, 0, erfSplit * erfSplit, erfRatio,
		func(z float64) float64 { return 1 / (1 + erfRatio(z)) }, 26.4},
	{"erfcLogCoef", erfcLogCoef, erfSplit, 4,
		func(a float64) float64 { return -math.Log(math.Erfc(a)) },
		func(a float64) float64 { return math.Erfc(a) / math.Erf(a) }, 25.5},
	{"millsCoef", millsCoef, -millsCentre, 15/(millsScale+15) - millsCentre, mills,
		func(w float64) float64 { return 1 / mills(w) }, 26.2},
}

// expRest is (eʳ − 1 − r)/r².
func expRest(r float64) float64 {
	if math.Abs(r) > 0.05 {
		return (math.Expm1(r) - r) / (r * r)
	}
	s, term := 0.0, 0.5
	for i := 3; i < 12; i++ {
		s += term
		term *= r / float64(i)
	}
	return s
}

// erfRatio is erf(x)/x − 1, x = √z.
func erfRatio(z float64) float64 {
	if z < 1e-6 {
		return 2/math.Sqrt(math.Pi)*(1-z/3+z*z/10) - 1
	}
	return math.Erf(math.Sqrt(z))/math.Sqrt(z) - 1
}

// mills is exp(a²/2)·Φ(−a)·(millsScale + a), where a/(millsScale + a) is
// w + millsCentre.
func mills(w float64) float64 {
	u := w + millsCentre
	a := millsScale * u / (1 - u)
	return math.Exp(a*a/2) * 0.5 * math.Erfc(a/math.Sqrt2) * (millsScale + a)
}

// TestCoefficients derives every polynomial and compares: the checked-in one is
// the optimum but for its rounding to float32, and keeps the error it states.
func TestCoefficients(t *testing.T) {
	for _, a := range approximations {
		best, bestErr := remez(a.f, a.weight, a.lo, a.hi, len(a.coef)-1)
		var text []string
		var worst float64
		for _, c := range best {
			text = append(text, strconv.FormatFloat(float64(float32(c)), 'g', -1, 32))
		}
		const n = 100000
		for i := range n + 1 {
			x := a.lo + (a.hi-a.lo)*float64(i)/n
			var p float64
			for j := len(a.coef) - 1; j >= 0; j-- {
				p = p*x + float64(float32(a.coef[j]))
			}
			worst = max(worst, a.weight(x)*math.Abs(p-a.f(x)))
		}
		if !(worst <= math.Exp2(-a.bits)) || len(a.coef) == 0 {
			t.Errorf("%s: error 2^%.2f, stated 2^-%v, optimum before rounding 2^%.2f with {%s}",
				a.name, math.Log2(worst), a.bits, math.Log2(bestErr), strings.Join(text, ", "))
		}
	}
}

// remez returns monomial coefficients in x (lowest first) of the polynomial p of degree deg that minimises max w·|p−f| over [a,b].
func remez(f, w func(float64) float64, a, b float64, deg int) ([]float64, float64) {
	n := deg + 2
	mid, half := (a+b)/2, (b-a)/2
	u := make([]float64, n)
	for i := range u {
		u[i] = -math.Cos(math.Pi * (float64(i) + .5) / float64(n))
	}
	cheb := func(u float64) []float64 {
		t := make([]float64, deg+1)
		t[0] = 1
		if deg > 0 {
			t[1] = u
		}
		for i := 2; i <= deg; i++ {
			t[i] = 2*u*t[i-1] - t[i-2]
		}
		return t
	}
	var c []float64
	var best float64
	for range 40 {
		m := make([][]float64, n)
		for i := range m {
			x := mid + half*u[i]
			row := cheb(u[i])
			s := 1.0
			if i%2 == 1 {
				s = -1
			}
			m[i] = append(row, s/w(x), f(x))
		}
		c = solve(m)
		E := func(u float64) float64 {
			x := mid + half*u
			var p float64
			for i, t := range cheb(u) {
				p += t * c[i]
			}
			return w(x) * (p - f(x))
		}
		// extrema on a dense grid, one per sign run
		const N = 20000
		var nu []float64
		var ne []float64
		for i := 0; i <= N; i++ {
			g := -math.Cos(math.Pi * float64(i) / N)
			e := E(g)
			if len(nu) > 0 && (e > 0) == (ne[len(ne)-1] > 0) {
				if math.Abs(e) > math.Abs(ne[len(ne)-1]) {
					nu[len(nu)-1], ne[len(ne)-1] = g, e
				}
			} else {
				nu, ne = append(nu, g), append(ne, e)
			}
		}
		for len(nu) > n {
			if math.Abs(ne[0]) < math.Abs(ne[len(ne)-1]) {
				nu, ne = nu[1:], ne[1:]
			} else {
				nu, ne = nu[:len(nu)-1], ne[:len(ne)-1]
			}
		}
		best = 0
		lo := math.Inf(1)
		for _, e := range ne {
			best = math.Max(best, math.Abs(e))
			lo = math.Min(lo, math.Abs(e))
		}
		if len(nu) < n {
			break
		}
		copy(u, nu)
		if best/lo < 1.0001 {
			break
		}
	}
	// chebyshev -> monomial in u -> x
	T := [][]float64{{1}, {0, 1}}
	for i := 2; i <= deg; i++ {
		t := make([]float64, i+1)
		for j, v := range T[i-1] {
			t[j+1] += 2 * v
		}
		for j, v := range T[i-2] {
			t[j] -= v
		}
		T = append(T, t)
	}
	pu := make([]float64, deg+1)
	for i := 0; i <= deg; i++ {
		for j, v := range T[i] {
			pu[j] += c[i] * v
		}
	}
	// u = (x-mid)/half: horner of polynomials
	px := make([]float64, deg+1)
	for i := deg; i >= 0; i-- {
		q := make([]float64, deg+1)
		for j, v := range px {
			if v == 0 {
				continue
			}
			if j+1 <= deg {
				q[j+1] += v / half
			}
			q[j] -= v * mid / half
		}
		q[0] += pu[i]
		px = q
	}
	return px, best
}

func solve(m [][]float64) []float64 {
	n := len(m)
	for i := range n {
		p := i
		for j := i; j < n; j++ {
			if math.Abs(m[j][i]) > math.Abs(m[p][i]) {
				p = j
			}
		}
		m[i], m[p] = m[p], m[i]
		for j := range n {
			if j != i {
				k := m[j][i] / m[i][i]
				for l := i; l <= n; l++ {
					m[j][l] -= k * m[i][l]
				}
			}
		}
	}
	x := make([]float64, n)
	for i := range n {
		x[i] = m[i][n] / m[i][i]
	}
	return x
}
