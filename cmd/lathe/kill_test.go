package main

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be the tool, for tests that kill it.
func TestMain(m *testing.M) {
	if os.Getenv("LATHE_TEST_AS_TOOL") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestKilledHeal kills a healing (SIGKILL) at moments of all kinds: while it
// loads, between steps, as soon as a checkpoint is there, and while one is being
// written. Resumed again and again, with one thread and with two, it ends with
// the bytes of one that was left alone.
func TestKilledHeal(t *testing.T) {
	f := newFolder(t)
	m, s := f.in("model.onnx"), f.in("small.onnx")
	ok(t, "drop", m, "--modules", "A1,M2,A3", "-o", s)
	heal := func(out string, more ...string) []string {
		return append([]string{"heal", s, "--teacher", m, "--data", f.in("calib.npz"), "--steps", "32", "--batch", "6", "--every", "1",
			"--lr", "3e-4", "--held-out", "0.25", "-o", f.in(out)}, more...)
	}
	ok(t, heal("whole.onnx")...)
	want := f.read(t, "whole.onnx")
	// The pieces of a checkpoint that is not complete yet.
	pieces := func(state string) []string {
		list, err := filepath.Glob(filepath.Join(f.dir, "."+state+".*"))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	for _, threads := range []string{"1", "2"} {
		state, out := "state"+threads+".npz", "killed"+threads+".onnx"
		rng := rand.New(rand.NewPCG(3, 4))
		// Each returns once the process is to be killed.
		size := func() (n int64, at time.Time) {
			if st, err := os.Stat(f.in(state)); err == nil {
				return st.Size(), st.ModTime()
			}
			return 0, time.Time{}
		}
		moments := []func(begin time.Time){
			func(begin time.Time) { time.Sleep(time.Duration(rng.Int64N(int64(100 * time.Millisecond)))) },
			func(begin time.Time) { // a checkpoint is complete
				_, was := size()
				for _, at := size(); at.Equal(was) && time.Since(begin) < time.Minute; _, at = size() {
					time.Sleep(100 * time.Microsecond)
				}
			},
			func(begin time.Time) { // a checkpoint is being written
				before := len(pieces(state))
				for len(pieces(state)) <= before && time.Since(begin) < time.Minute {
				}
			},
			func(begin time.Time) { // between steps
				_, was := size()
				for _, at := size(); at.Equal(was) && time.Since(begin) < time.Minute; _, at = size() {
					time.Sleep(100 * time.Microsecond)
				}
				time.Sleep(time.Duration(rng.Int64N(int64(20 * time.Millisecond))))
			},
		}
		kills, torn := 0, 0
		for round := 0; ; round++ {
			cmd := exec.Command(os.Args[0], heal(out, "--threads", threads, "--checkpoint", f.in(state), "--resume")...)
			cmd.Env = append(os.Environ(), "LATHE_TEST_AS_TOOL=1")
			var said strings.Builder
			cmd.Stderr = &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// The moment in the middle of a checkpoint is easily missed.
			const writing, tries = 2, 16
			if round < len(moments) || torn == 0 && round < tries {
				before := len(pieces(state))
				if round < len(moments) {
					moments[round%len(moments)](time.Now())
				} else {
					moments[writing](time.Now())
				}
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Wait(); err == nil {
					t.Fatalf("round %d ended before it was killed", round)
				}
				kills++
				if len(pieces(state)) > before {
					torn++
				}
				if _, err := os.Stat(f.in(out)); err == nil {
					t.Fatalf("round %d: a model was written before the healing ended", round)
				}
				continue
			}
			if err := cmd.Wait(); err != nil {
				t.Fatalf("round %d: %v: %s", round, err, said.String())
			}
			break
		}
		if f.read(t, out) != want {
			t.Errorf("%s threads: %d kills change the result", threads, kills)
		}
		if torn == 0 {
			t.Errorf("%s threads: no checkpoint was cut off", threads)
		}
		t.Logf("%s threads: %d kills, %d of them in the middle of a checkpoint", threads, kills, torn)
	}
}
