// Command lathe makes ONNX models smaller and faster, and runs them.
//
// Exit status: 0 success, 1 a comparison or quality gate that failed, 2 bad
// usage or bad input, 130 interrupted.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/onnx-lathe/lathe/internal/npz"
	engine "github.com/onnx-lathe/lathe/runtime"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second interrupt ends the program at once
	code := execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
	os.Exit(code)
}

const (
	exitFailed      = 1
	exitBad         = 2
	exitInterrupted = 130
)

// failed is the error of a comparison or gate that did not pass; its text is
// printed as it is.
type failed struct{ error }

// interrupted is the error of a command that an interrupt ended, and that kept
// what it had.
type interrupted struct{ error }

// execute runs one command line and returns its exit status.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	out := &stream{w: stdout}
	a := &app{stdout: out, stderr: &stream{w: stderr}, memory: defaultMemory}
	if f, ok := stderr.(*os.File); ok {
		a.terminal = term.IsTerminal(int(f.Fd()))
	}
	root := a.root()
	root.SetArgs(append([]string{}, args...)) // nil would mean those of the process
	err := root.ExecuteContext(ctx)
	if out.err != nil {
		err = fmt.Errorf("standard output: %w; not all of it was written", plain(out.err))
	}
	if a.bar != nil && !a.bar.IsFinished() {
		_ = a.bar.Clear()
	}
	switch {
	case err == nil:
		a.remarks()
		return 0
	case errors.As(err, new(interrupted)):
		a.remarks()
		fmt.Fprintf(stderr, "lathe: %s\n", oneLine(err))
		return exitInterrupted
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "lathe: interrupted; nothing half-written is left")
		return exitInterrupted
	}
	code := exitBad
	if errors.As(err, new(failed)) {
		a.remarks()
		code = exitFailed
	}
	hint := ""
	if errors.Is(err, engine.ErrMemory) || errors.Is(err, npz.ErrLimit) {
		hint = "; allow more with --memory, or run fewer samples at a time"
	}
	fmt.Fprintf(stderr, "lathe: %s%s\n", oneLine(err), hint)
	return code
}

// oneLine joins the lines of an error: the first of them, and how many there
// are beyond what a line should hold.
func oneLine(err error) string {
	lines := slices.DeleteFunc(strings.Split(err.Error(), "\n"), func(s string) bool { return strings.TrimSpace(s) == "" })
	const most = 3
	s := strings.Join(lines[:min(len(lines), most)], "; ")
	if n := len(lines) - most; n > 0 {
		s += fmt.Sprintf("; and %d more", n)
	}
	return s
}

// app is what all commands share: where output goes, and the flags that every
// command has.
type app struct {
	stdout, stderr io.Writer
	terminal       bool // standard error is one
	json           bool
	quiet          bool
	verbose        bool
	threads        int
	seed           uint64
	memory         int64 // MB

	notes []string // not yet shown
	bar   *progressbar.ProgressBar
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "lathe",
		Short: "Make ONNX models smaller and faster, and run them",
		Long: `lathe scores every attention and MLP module of a transformer on calibration
data, drops the least important ones, rewrites the weights that are left as
block-circulant FFT operators, and runs the result. The files it writes run in
stock ONNX Runtime too.

Every command prints one JSON object with --json, and nothing else on standard
output; notes and progress go to standard error. Exit status: 0 success, 1 a
comparison that failed, 2 bad usage or bad input, 130 interrupted.`,
		Example: `  lathe demo
  lathe inspect model.onnx
  lathe optimize model.onnx --data calib.npz --drop 4 --block 4 -o small.onnx --report report.html
  lathe eval model.onnx small.onnx --data eval.npz --labels labels`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) {
			level := slog.LevelWarn
			if a.verbose {
				level = slog.LevelDebug
			}
			slog.SetDefault(slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level})))
			// Weights are long-lived and large: collecting less often costs
			// little memory and saves passes over them.
			debug.SetGCPercent(200)
		},
	}
	f := root.PersistentFlags()
	f.BoolVar(&a.json, "json", false, "print one JSON object on standard output")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "no progress and no notes")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "log what passes do")
	addCount(f, &a.threads, 0, "threads", "threads of the runtime, 0 for all cores; results do not depend on it")
	f.Uint64Var(&a.seed, "seed", 1, "seed of everything random")
	root.SetFlagErrorFunc(flagError)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.AddCommand(a.inspect(), a.score(), a.drop(), a.circulant(), a.quantize(), a.heal(), a.train(), a.optimize(), a.run(), a.generate(), a.eval(), a.bench(),
		a.verify(), a.conformance(), a.convert(), a.diff(), a.text(), a.ledger(), a.demo(), a.version())
	root.SetHelpCommand(helpCommand())
	root.InitDefaultCompletionCmd("completion") // adds nothing where the root has no other command
	for _, c := range append(root.Commands(), root) {
		if c.HasSubCommands() {
			group(c)
		}
		if c.Name() == "completion" {
			c.Example = "  source <(lathe completion bash)"
			for _, shell := range c.Commands() {
				shell.Args = argCount(0, 0, "nothing more")
			}
		}
	}
	return root
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Explain a command", Example: "  lathe help drop",
		ValidArgsFunction: func(c *cobra.Command, _ []string, start string) (words []string, _ cobra.ShellCompDirective) {
			for _, x := range c.Root().Commands() {
				if strings.HasPrefix(x.Name(), start) {
					words = append(words, x.Name()+"\t"+x.Short)
				}
			}
			return words, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			of, rest, err := c.Root().Find(args)
			if len(rest) > 0 {
				return noCommand(of, rest[0])
			}
			of.InitDefaultHelpFlag()
			return cmp.Or(err, of.Help())
		},
	}
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  lathe version", Args: argCount(0, 0, "nothing more"),
		RunE: func(*cobra.Command, []string) error {
			v := "devel"
			if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
				v = info.Main.Version
			}
			if a.json {
				return a.printJSON(map[string]string{"version": v, "go": runtime.Version(), "arch": runtime.GOARCH, "os": runtime.GOOS})
			}
			fmt.Fprintf(a.stdout, "lathe %s (%s, %s/%s)\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}
