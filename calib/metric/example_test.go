package metric_test

import (
	"fmt"
	"log"

	"github.com/onnx-lathe/lathe/calib/metric"
)

func Example() {
	logits := []float32{2, 1, 0, 0, 3, 1, 1, 0, 5} // three samples of three classes
	labels := []int64{0, 1, 1}
	fmt.Println("class of the first", metric.ArgMax(logits[:3]))
	var right []float64
	for i, label := range labels {
		v, err := metric.Accuracy(logits[3*i:3*i+3], 3, []int64{label})
		if err != nil {
			log.Fatal(err)
		}
		right = append(right, v)
	}
	low, high := metric.Bootstrap(right, 1)
	fmt.Printf("accuracy %.2f, 95 %% interval %.2f … %.2f\n", metric.Mean(right), low, high)

	kl, err := metric.KL([]float32{1, 1}, []float32{1, 0}, 2)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("KL %.4f nats\n", kl)
	// Output:
	// class of the first 0
	// accuracy 0.67, 95 % interval 0.00 … 1.00
	// KL 0.1201 nats
}
