package generate_test

import (
	"context"
	"fmt"
	"log"

	"github.com/onnx-lathe/lathe/runtime/generate"
	"github.com/onnx-lathe/lathe/testmodels"
)

// Continue a text, token by token.
func Example() {
	m := testmodels.LLaMA(testmodels.Size{Seed: 1}, testmodels.LLaMAOptions{Cache: true})
	d, err := generate.New(m, generate.Options{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("cache:", d.Cached(), "vocabulary:", d.Vocabulary())
	prompt := []int{1, 2, 3}
	err = d.Generate(context.Background(), prompt, 8, generate.NewSampler(generate.Sampling{}), func(token int) error {
		fmt.Println(token)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// cache: true vocabulary: 40
	// 13
	// 13
	// 13
	// 13
	// 35
	// 29
	// 13
	// 13
}

// Choose the tokens yourself: the two most probable first words, each continued
// from the same prompt, which is read once.
func ExampleDecoder_Next() {
	ctx := context.Background()
	m := testmodels.LLaMA(testmodels.Size{Seed: 1}, testmodels.LLaMAOptions{Cache: true})
	d, err := generate.New(m, generate.Options{})
	if err != nil {
		log.Fatal(err)
	}
	greedy := generate.NewSampler(generate.Sampling{})
	if _, err := d.Next(ctx, 1, 2, 3); err != nil {
		log.Fatal(err)
	}
	read := d.Len()
	for _, first := range []int{13, 5} {
		logits, err := d.Next(ctx, first)
		if err != nil {
			log.Fatal(err)
		}
		second, err := greedy.Draw(logits)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(first, second)
		if err := d.Truncate(read); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// 13 13
	// 5 16
}
