// A Go client of a Triton Inference Server that runs LLaMA, with typed contents and Debian's Go packages alone.
//
//	triton_go_client HOST:PORT PROMPT MAX_TOKENS
//
// Asks ensemble by ModelInfer and by ModelStreamInfer, and writes both texts, a line each.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strconv"

	"google.golang.org/grpc"

	pb "triton/inference"
)

func input(name, datatype string, contents *pb.InferTensorContents) *pb.ModelInferRequest_InferInputTensor {
	return &pb.ModelInferRequest_InferInputTensor{
		Name: name, Datatype: datatype, Shape: []int64{1, 1}, Contents: contents,
	}
}

func text(value string) *pb.InferTensorContents {
	return &pb.InferTensorContents{BytesContents: [][]byte{[]byte(value)}}
}

func makeRequest(prompt string, maxTokens uint32) *pb.ModelInferRequest {
	return &pb.ModelInferRequest{
		ModelName: "ensemble",
		Id:        "1",
		Inputs: []*pb.ModelInferRequest_InferInputTensor{
			input("INPUT_0", "BYTES", text(prompt)),
			input("INPUT_1", "UINT32", &pb.InferTensorContents{UintContents: []uint32{maxTokens}}),
			input("INPUT_2", "BYTES", text("")),
			input("INPUT_3", "BYTES", text("")),
			input("runtime_top_k", "UINT32", &pb.InferTensorContents{UintContents: []uint32{1}}),
			input("temperature", "FP32", &pb.InferTensorContents{Fp32Contents: []float32{1}}),
			input("random_seed", "UINT64", &pb.InferTensorContents{Uint64Contents: []uint64{0}}),
			input("is_return_log_probs", "BOOL", &pb.InferTensorContents{BoolContents: []bool{true}}),
		},
	}
}

// OUTPUT_0: one element, a length and its bytes.
func textOf(response *pb.ModelInferResponse) string {
	for i, output := range response.GetOutputs() {
		if output.GetName() == "OUTPUT_0" {
			raw := response.GetRawOutputContents()[i]
			return string(raw[4 : 4+binary.LittleEndian.Uint32(raw)])
		}
	}
	return "no OUTPUT_0"
}

func infer(client pb.GRPCInferenceServiceClient, request *pb.ModelInferRequest) error {
	response, err := client.ModelInfer(context.Background(), request)
	if err != nil {
		return err
	}
	fmt.Println(textOf(response))
	return nil
}

func inferOnStream(client pb.GRPCInferenceServiceClient, request *pb.ModelInferRequest) error {
	stream, err := client.ModelStreamInfer(context.Background())
	if err != nil {
		return err
	}
	if err := stream.Send(request); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	whole := ""
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			fmt.Println(whole)
			return nil
		}
		if err != nil {
			return err
		}
		if message := response.GetErrorMessage(); message != "" {
			return fmt.Errorf("%s", message)
		}
		whole = textOf(response.GetInferResponse()) // cumulative: the last one is the whole
	}
}

func run() error {
	if len(os.Args) != 4 {
		return fmt.Errorf("usage: triton_go_client HOST:PORT PROMPT MAX_TOKENS")
	}
	maxTokens, err := strconv.ParseUint(os.Args[3], 10, 32)
	if err != nil {
		return err
	}
	connection, err := grpc.Dial(os.Args[1], grpc.WithInsecure())
	if err != nil {
		return err
	}
	defer connection.Close()
	client := pb.NewGRPCInferenceServiceClient(connection)
	request := makeRequest(os.Args[2], uint32(maxTokens))
	if err := infer(client, request); err != nil {
		return err
	}
	return inferOnStream(client, request)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
