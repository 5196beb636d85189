// A Go client of the native API, with Debian's Go packages alone.
//
//	go_client HOST:PORT PROMPT MAX_TOKENS
//
// Generates greedily, once by Generate and once on a Session, and writes both texts as they come, a line each.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "caravan/v1"
)

func makeRequest(prompt string, maxTokens int, requestID string) *pb.GenerateRequest {
	return &pb.GenerateRequest{
		RequestId: requestID,
		Prompt:    []*pb.PromptPart{{Part: &pb.PromptPart_Text{Text: []byte(prompt)}}},
		Sampling:  &pb.SamplingParams{Temperature: proto.Float32(0)},
		Stopping:  &pb.StoppingParams{MaxTokens: uint32(maxTokens)},
	}
}

func generate(client pb.GenerationClient, request *pb.GenerateRequest) error {
	stream, err := client.Generate(context.Background(), request)
	if err != nil {
		return err
	}
	for {
		event, err := stream.Recv()
		if err == io.EOF {
			fmt.Println()
			return nil
		}
		if err != nil {
			return err
		}
		os.Stdout.Write(event.GetTokens().GetText())
	}
}

func generateOnSession(client pb.GenerationClient, request *pb.GenerateRequest) error {
	stream, err := client.Session(context.Background())
	if err != nil {
		return err
	}
	start := &pb.SessionRequest{Message: &pb.SessionRequest_Start{Start: request}}
	if err := stream.Send(start); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			fmt.Println()
			return nil
		}
		if err != nil {
			return err
		}
		os.Stdout.Write(message.GetEvent().GetEvent().GetTokens().GetText())
	}
}

func run(address, prompt string, maxTokens int) error {
	connection, err := grpc.Dial(address, grpc.WithInsecure())
	if err != nil {
		return err
	}
	defer connection.Close()
	client := pb.NewGenerationClient(connection)
	if err := generate(client, makeRequest(prompt, maxTokens, "")); err != nil {
		return err
	}
	return generateOnSession(client, makeRequest(prompt, maxTokens, "a"))
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintf(os.Stderr, "usage: %s HOST:PORT PROMPT MAX_TOKENS\n", os.Args[0])
		os.Exit(2)
	}
	maxTokens, err := strconv.Atoi(os.Args[3])
	if err == nil {
		err = run(os.Args[1], os.Args[2], maxTokens)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
