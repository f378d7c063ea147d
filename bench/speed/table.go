package main

import (
	"fmt"
	"strings"
	"time"
)

// markdown is the table of the results, group by group, with what they were
// measured on.
func markdown(m machine, results []result) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s.\n%d pairs for each figure; %s.\n", m, m.Pairs, m.load())
	met, goals := tally(results)
	fmt.Fprintf(&s, "\n%d of %d goals are met.\n", met, goals)
	for _, g := range groups {
		var rows []result
		gflops := false
		for _, r := range results {
			if r.Group == g.name {
				rows = append(rows, r)
				gflops = gflops || r.GFLOPS > 0
			}
		}
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintf(&s, "\n### %s\n\n%s.\n\n", g.title, strings.ToUpper(g.unit[:1])+g.unit[1:])
		head := []string{"case", "goal", "ratio", "p10 … p90", g.base.name, g.side.name}
		if g.base.name == g.side.name {
			head[4], head[5] = g.base.name+", original", g.side.name+", rewritten"
		}
		if gflops {
			head = append(head, "share of peak")
		}
		line(&s, append(head, "pass")...)
		line(&s, strings.Split("---"+strings.Repeat(" ---", len(head)), " ")...)
		for _, r := range rows {
			goal, pass := "", ""
			if r.Goal > 0 {
				goal, pass = "≥ "+figure(r.Goal), "no"
				if r.Pass {
					pass = "yes"
				}
			}
			cells := []string{r.Case, goal, figure(r.Ratio), figure(r.P10) + " … " + figure(r.P90), duration(r.BaseMS), duration(r.OwnMS)}
			if r.Left != "" {
				cells = []string{r.Case, goal, "not measured: " + r.Left, "", "", ""}
			}
			if gflops {
				share := ""
				if r.GFLOPS > 0 {
					share = fmt.Sprintf("%.0f %%", 100*r.GFLOPS/m.Peak)
				}
				cells = append(cells, share)
			}
			line(&s, append(cells, pass)...)
		}
	}
	return s.String()
}

// tally counts the goals among results, and those that are met.
func tally(results []result) (met, goals int) {
	for _, r := range results {
		if r.Goal > 0 {
			goals++
			if r.Pass {
				met++
			}
		}
	}
	return met, goals
}

func line(s *strings.Builder, cells ...string) {
	s.WriteString("|")
	for _, c := range cells {
		s.WriteString(" " + strings.NewReplacer("|", "\\|", "\n", " ").Replace(c) + " |")
	}
	s.WriteString("\n")
}

// figure rounds to two decimals, or to one from 10 on; goals are written as
// they are.
func figure(x float64) string {
	if x >= 10 {
		return strings.TrimSuffix(fmt.Sprintf("%.1f", x), ".0")
	}
	return fmt.Sprintf("%.2f", x)
}

// duration writes milliseconds with a unit that suits them.
func duration(ms float64) string {
	d := time.Duration(ms * 1e6)
	switch {
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%.0f ms", ms)
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1f ms", ms)
	case d >= 10*time.Microsecond:
		return fmt.Sprintf("%.0f µs", ms*1e3)
	}
	return fmt.Sprintf("%.1f µs", ms*1e3)
}
