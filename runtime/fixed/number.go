package fixed

// The limits of an int16.
const (
	Low  = -1 << 15
	High = 1<<15 - 1
)

// Round is round(v, s) of the specification. s is at most 62; for s < 0, |v|
// must leave room for the shift.
func Round(v int64, s int) int64 {
	if s <= 0 {
		return v << -s
	}
	return (v + 1<<(s-1)) >> s
}

// Saturate is sat(v).
func Saturate(v int64) int16 { return int16(min(max(v, Low), High)) }

// Mean is the mean of count numbers of that sum, times 2ˡ, as AveragePoolInt16
// rounds it; 0 of none.
func Mean(sum int64, count, l int) int16 {
	if count == 0 {
		return 0
	}
	n, d := sum<<l*2+int64(count), 2*int64(count)
	q := n / d
	if n%d < 0 {
		q--
	}
	return Saturate(q)
}
