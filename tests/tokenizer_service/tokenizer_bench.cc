// Text and tokens a second, of one thread: tokenizer_service_bench [--benchmark_filter=…]. The
// model is the bundled one.
#include <benchmark/benchmark.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/status.h"
#include "tokenizer_service/stream_decoder.h"
#include "tokenizer_service/tokenizer.h"

namespace caravan {
namespace {

const Tokenizer& DemoTokenizer() {
  static const Tokenizer* tokenizer = [] {
    auto loaded = LoadTokenizer(CARAVAN_SOURCE_DIR "/models/demo");
    CARAVAN_CHECK(loaded.ok(), loaded.status().message());
    return loaded->release();
  }();
  return *tokenizer;
}

// English words at random, or one word without end.
std::string MakeText(size_t size, bool words) {
  static constexpr const char* kWords[] = {"The ",     "little ", "lantern ", "walked ", "under ",
                                           "a ",       "golden ", "river, ",  "and ",    "nobody ",
                                           "answered", ". ",      "caravan ", "12 ",     "naïve "};
  std::mt19937 random(1);
  std::string text;
  while (text.size() < size) {
    text += words ? std::string(kWords[random() % std::size(kWords)])
                  : std::string(1, static_cast<char>('a' + random() % 26));
  }
  return text;
}

void Encode(benchmark::State& state, bool words) {
  const std::string text = MakeText(state.range(0), words);
  size_t num_tokens = 0;
  for (auto _ : state) {
    auto ids = DemoTokenizer().Encode(text, {});
    CARAVAN_CHECK(ids.ok());
    num_tokens += ids->size();
  }
  state.SetBytesProcessed(static_cast<int64_t>(text.size() * state.iterations()));
  state.counters["tokens"] =
      benchmark::Counter(static_cast<double>(num_tokens), benchmark::Counter::kIsRate);
}

void EncodeWords(benchmark::State& state) { Encode(state, true); }
BENCHMARK(EncodeWords)->Arg(100)->Arg(10'000)->Arg(4 << 20)->Unit(benchmark::kMicrosecond);

void EncodeOneLongWord(benchmark::State& state) { Encode(state, false); }
BENCHMARK(EncodeOneLongWord)->Arg(10'000)->Arg(4 << 20)->Unit(benchmark::kMicrosecond);

void EncodeParsingSpecialTokens(benchmark::State& state) {
  std::string text = MakeText(10'000, true);
  for (size_t at = 0; at < text.size(); at += 200) text.insert(at, "</s><s>");
  EncodeOptions options;
  options.parse_special_tokens = true;
  for (auto _ : state) benchmark::DoNotOptimize(DemoTokenizer().Encode(text, options));
  state.SetBytesProcessed(static_cast<int64_t>(text.size() * state.iterations()));
}
BENCHMARK(EncodeParsingSpecialTokens)->Unit(benchmark::kMicrosecond);

// Token by token, as a generation brings them.
void StreamDecode(benchmark::State& state) {
  const std::vector<int32_t> ids = *DemoTokenizer().Encode(MakeText(100'000, true), {});
  size_t num_bytes = 0;
  for (auto _ : state) {
    StreamDecoder decoder(&DemoTokenizer().vocabulary(), /*keep_special_tokens=*/false);
    for (const int32_t& id : ids) {
      std::string text;
      decoder.Append({&id, 1}, text);
      num_bytes += text.size();
    }
  }
  CARAVAN_CHECK(num_bytes > 0);
  state.SetItemsProcessed(static_cast<int64_t>(ids.size() * state.iterations()));
}
BENCHMARK(StreamDecode);

}  // namespace
}  // namespace caravan
