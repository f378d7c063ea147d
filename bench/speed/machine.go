package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/onnx-lathe/lathe/bench/ort"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// A machine is what figures were measured on.
type machine struct {
	CPU    string  `json:"cpu"`         // model, as the system names it
	Cores  int     `json:"cores"`       // that this process may use
	Path   string  `json:"path"`        // of lathe's kernels
	Peak   float64 `json:"peak_gflops"` // measured, of one core on that path
	Others float64 `json:"others"`      // cores that other processes used meanwhile; −1 where the system does not say
	ORT    string  `json:"onnxruntime"`
	Go     string  `json:"go"`
	Pairs  int     `json:"pairs"`
}

// inspect describes this machine. Others is still to come.
func inspect(pairs int) (machine, error) {
	k, err := simd.For(simd.Auto)
	if err != nil {
		return machine{}, err
	}
	library, err := ort.Version()
	if err != nil {
		return machine{}, err
	}
	return machine{CPU: cpuModel(), Cores: runtime.GOMAXPROCS(0), Path: k.Path().String(), Peak: k.Peak() / 1e9,
		Others: -1, ORT: library, Go: runtime.Version(), Pairs: pairs}, nil
}

// String gives the machine in a line.
func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores; peak %.0f GFLOP/s a core (%s multiply-adds, measured); ONNX Runtime %s; %s",
		m.CPU, m.Cores, m.Peak, m.Path, m.ORT, m.Go)
}

// load says how busy the rest of the machine was.
func (m machine) load() string {
	if m.Others < 0 {
		return "how busy the rest of the machine was is not known"
	}
	return fmt.Sprintf("other processes used %.2f cores meanwhile", m.Others)
}

// cpuModel is what Linux calls the processor, with family and model where it
// says them: in virtual machines the name alone is often that of many.
func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	first, _, _ := strings.Cut(string(text), "\n\n")
	of := map[string]string{}
	for l := range strings.Lines(first) {
		if key, value, ok := strings.Cut(l, ":"); ok {
			of[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	switch {
	case of["model name"] == "":
		return runtime.GOOS + "/" + runtime.GOARCH
	case of["cpu family"] == "":
		return of["model name"]
	}
	return fmt.Sprintf("%s, family %s, model %s", of["model name"], of["cpu family"], of["model"])
}

// A watch sees how busy other processes keep the machine.
type watch struct {
	busy, own, wall time.Duration
	ok              bool
}

func newWatch() watch {
	busy, ok := busyTime()
	return watch{busy, cpuTime(), wallTime(), ok}
}

// others is the number of cores that other processes used since w was made, −1
// where the system does not say.
func (w watch) others() float64 {
	now := newWatch()
	if !w.ok || !now.ok || now.wall <= w.wall {
		return -1
	}
	return max(0, ((now.busy-w.busy)-(now.own-w.own)).Seconds()/(now.wall-w.wall).Seconds())
}

// busyTime is the time that all processes of this machine have computed, from
// /proc/stat: user, nice, system, (idle, iowait,) irq, softirq, steal.
func busyTime() (time.Duration, bool) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, false
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, false
	}
	ticks := 0
	for i, f := range fields[1:9] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, false
		}
		if i != 3 && i != 4 {
			ticks += n
		}
	}
	const hertz = 100 // what Linux tells programs, whatever its own clock
	return time.Duration(ticks) * time.Second / hertz, true
}
