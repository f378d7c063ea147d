package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/runtime/generate"
)

func (a *app) generate() *cobra.Command {
	var prompt, stop []int
	var s generate.Sampling
	most := 64
	c := &cobra.Command{
		Use:   "generate MODEL --tokens IDS [--max N]",
		Short: "Continue a text, as tokens, with a language model",
		Long: `generate feeds the tokens to a decoder model, draws the one that follows from
its logits, feeds that, and so on; it prints each as soon as it is drawn. A model
with inputs for the keys and values of earlier tokens, and outputs that hand them
on, reads every token once; others read the whole text again for each. The inputs
are told apart by what the model does with them, so that their names may be any.

Without --temperature the most probable token is taken always. Rates go to
standard error: how fast the prompt was read, and how fast the rest came.`,
		Example: `  lathe generate model.onnx --tokens 1
  lathe generate model.onnx --tokens 1,403,407 --max 200 --stop 2
  lathe generate model.onnx --tokens 1 --temperature 0.8 --top-k 40 --top-p 0.95 --seed 7`,
		Args: argCount(1, 1, "one model"),
		RunE: func(c *cobra.Command, args []string) error {
			if len(prompt) == 0 {
				return fmt.Errorf("generate needs --tokens, the token ids that the text begins with, such as --tokens 1 for a usual start of text")
			}
			m, err := a.load(args[0])
			if err != nil {
				return err
			}
			done := a.busy("compiling " + args[0])
			d, err := generate.New(m, generate.Options{Threads: a.threads, MemoryLimit: a.memory << 20, Stop: stop})
			done()
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			for _, id := range stop {
				if n := d.Vocabulary(); id < 0 || n > 0 && id >= n {
					return fmt.Errorf("%s: --stop %d: the model's tokens are 0 … %d", args[0], id, n-1)
				}
			}
			s.Seed = a.seed
			tokens := []int{}
			start := time.Now()
			var first, last time.Duration
			err = d.Generate(c.Context(), prompt, most, generate.NewSampler(s), func(token int) error {
				if last = time.Since(start); len(tokens) == 0 {
					first = last
				}
				tokens = append(tokens, token)
				if !a.json {
					before := " "
					if len(tokens) == 1 {
						before = ""
					}
					fmt.Fprintf(a.stdout, "%s%d", before, token)
				}
				return c.Context().Err()
			})
			if len(tokens) > 0 && !a.json {
				fmt.Fprintln(a.stdout)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			read, decode := rate(len(prompt), first), rate(len(tokens)-1, last-first)
			if a.json {
				return a.printJSON(map[string]any{
					"path": args[0], "prompt": prompt, "tokens": tokens, "cached": d.Cached(), "stopped": slices.Contains(stop, tokens[len(tokens)-1]),
					"prompt_seconds": first.Seconds(), "decode_seconds": (last - first).Seconds(),
					"prompt_tokens_per_second": jsonFloat(read), "tokens_per_second": jsonFloat(decode),
				})
			}
			if !a.quiet {
				note := ""
				if !d.Cached() {
					note = "; the model has no cache and reads the whole text for each token"
				}
				fmt.Fprintf(a.stderr, "tokens: %d read, %.0f a second; %d generated", len(prompt), read, len(tokens))
				if len(tokens) > 1 {
					fmt.Fprintf(a.stderr, ", %.0f a second", decode)
				}
				fmt.Fprintln(a.stderr, note)
			}
			return nil
		},
	}
	f := c.Flags()
	f.Var(tokenList{&prompt}, "tokens", "`ids` of the tokens that the text begins with, separated by commas")
	addCount(f, &most, 1, "max", "most tokens to generate")
	addNumber(f, &s.Temperature, 0, 1e6, "temperature", "what logits are divided by before a token is drawn; 0 takes the most probable one")
	addCount(f, &s.TopK, 0, "top-k", "draw from so many of the most probable tokens only, 0 from all")
	addNumber(f, &s.TopP, 0, 1, "top-p", "draw from the most probable tokens that reach this probability together, 0 from all")
	f.Var(tokenList{&stop}, "stop", "end behind any of the tokens with these `ids`")
	a.memoryFlag(c)
	return completeModels(c)
}

// tokenList is a flag that takes token ids separated by commas, once or more.
type tokenList struct{ to *[]int }

func (l tokenList) Type() string { return "ids" }

func (l tokenList) String() string {
	var words []string
	for _, id := range *l.to {
		words = append(words, strconv.Itoa(id))
	}
	return strings.Join(words, ",")
}

func (l tokenList) Set(s string) error {
	for word := range strings.SplitSeq(s, ",") {
		id, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || id < 0 {
			return errors.New("want token ids, whole numbers separated by commas")
		}
		*l.to = append(*l.to, id)
	}
	return nil
}

// rate is n in a time, a second; 0 where there is none.
func rate(n int, d time.Duration) float64 {
	if n < 1 || d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}
