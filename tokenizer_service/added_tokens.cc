#include "tokenizer_service/added_tokens.h"

#include <algorithm>
#include <optional>

#include "common/utf8.h"

namespace caravan {

AddedTokens::AddedTokens(const std::vector<std::pair<int32_t, AddedToken>>& tokens) : trie_(1) {
  for (const auto& [id, token] : tokens) {
    if (token.content.empty()) continue;
    by_id_[id] = token;
    ids_[token.content] = id;
  }
  for (const auto& [id, token] : by_id_) AddToTrie(token.content);
}

void AddedTokens::AddToTrie(std::string_view content) {
  int node = 0;
  for (const Utf8Character& character : Utf8Characters(content)) {
    int next = Next(node, character.code_point);
    if (next < 0) {
      next = static_cast<int>(trie_.size());
      auto& edges = trie_[node].next;
      std::pair<char32_t, int> edge(character.code_point, next);
      edges.insert(std::upper_bound(edges.begin(), edges.end(), edge), edge);
      trie_.emplace_back();
    }
    node = next;
  }
  trie_[node].is_end = true;
  if (first_bytes_.find(content[0]) == std::string::npos) first_bytes_.push_back(content[0]);
}

int AddedTokens::Next(int node, char32_t character) const {
  const auto& edges = trie_[node].next;
  auto edge = std::lower_bound(edges.begin(), edges.end(), std::pair<char32_t, int>(character, 0));
  return edge != edges.end() && edge->first == character ? edge->second : -1;
}

int32_t AddedTokens::Find(std::string_view content) const {
  auto found = ids_.find(std::string(content));
  return found == ids_.end() ? -1 : found->second;
}

int32_t AddedTokens::Find(const Segment& segment) const {
  return segment.may_be_token ? Find(segment.text) : -1;
}

// One pass over a text that follows all partial matches at once. It is transformers' Trie.split
// step for step, because its results are the contract: matches are found one character late, the
// lookahead prefers the earliest start and then the longest match, and a partial match that has
// just failed still takes part in the lookahead of that character.
struct AddedTokens::Search {
  struct Match {
    size_t start;
    int node;
  };

  const AddedTokens& tokens;
  const std::vector<Utf8Character>& text;
  std::vector<Match> matches = {};  // ascending starts
  std::vector<size_t> cuts = {0};
  size_t skip = 0;

  bool IsEnd(int node) const { return tokens.trie_[node].is_end; }

  // `found` has ended before `current`: cuts out the best match that begins no later.
  void CutOut(size_t found, size_t current) {
    size_t start = found;
    size_t end = current;
    for (const Match& match : matches) {
      if (match.start > start) break;
      size_t at = match.start < start ? current + 1 : current;
      int node = match.node;
      end = at;
      auto take_if_end = [&] {
        if (!IsEnd(node)) return;
        start = match.start;
        end = skip = at;
      };
      take_if_end();
      while (at < text.size()) {
        int next = tokens.Next(node, text[at].code_point);
        if (next < 0) break;
        node = next;
        ++at;
        take_if_end();
      }
    }
    cuts.push_back(start);
    cuts.push_back(end);
    matches.clear();
  }

  // Moves every match by the character at `current`. False where one had ended: all are gone then.
  bool Advance(size_t current) {
    std::vector<bool> failed(matches.size());
    for (size_t i = 0; i < matches.size(); ++i) {
      if (IsEnd(matches[i].node)) {
        CutOut(matches[i].start, current);
        return false;
      }
      int next = tokens.Next(matches[i].node, text[current].code_point);
      if (next < 0) {
        failed[i] = true;
      } else {
        matches[i].node = next;
      }
    }
    size_t kept = 0;
    for (size_t i = 0; i < matches.size(); ++i) {
      if (!failed[i]) matches[kept++] = matches[i];
    }
    matches.resize(kept);
    return true;
  }

  void Run() {
    for (size_t current = 0; current < text.size(); ++current) {
      if (current < skip) continue;
      if (!matches.empty()) Advance(current);
      if (current < skip) continue;
      int first = tokens.Next(0, text[current].code_point);
      if (first >= 0) matches.push_back({current, first});
    }
    for (const Match& match : matches) {
      if (!IsEnd(match.node)) continue;
      cuts.push_back(match.start);
      cuts.push_back(text.size());
      break;
    }
    cuts.push_back(text.size());
  }
};

std::vector<Segment> AddedTokens::Split(std::string_view text) const {
  if (text.empty()) return {};
  if (text.find_first_of(first_bytes_) == std::string_view::npos) {
    return {{.text = std::string(text)}};
  }
  std::vector<Utf8Character> characters = Utf8Characters(text);
  Search search{*this, characters};
  search.Run();
  auto offset = [&](size_t i) {
    return i < characters.size() ? characters[i].offset : text.size();
  };
  std::vector<Segment> segments;
  size_t start = 0;
  for (size_t end : search.cuts) {
    if (end <= start) continue;
    segments.push_back(
        {.text = std::string(text.substr(offset(start), offset(end) - offset(start)))});
    start = end;
  }
  return segments;
}

void AddedTokens::StripAround(std::vector<Segment>& segments) const {
  for (size_t i = 0; i < segments.size(); ++i) {
    int32_t id = Find(segments[i]);
    if (id < 0) continue;
    const AddedToken& token = by_id_.at(id);
    Segment* left = i > 0 && !segments[i - 1].text.empty() ? &segments[i - 1] : nullptr;
    bool has_right = i + 1 < segments.size() && !segments[i + 1].text.empty();
    Segment* right = has_right ? &segments[i + 1] : nullptr;
    bool word_on_left = left && left->text.back() != ' ';
    bool word_on_right = right && right->text.front() != ' ';
    if (token.rstrip && right) right->text = std::string(StripLeft(right->text));
    if (token.lstrip && left) left->text = std::string(StripRight(left->text));
    if (!token.single_word) continue;
    if (word_on_left) {
      left->text += std::exchange(segments[i].text, "");
    } else if (word_on_right) {
      right->text.insert(0, std::exchange(segments[i].text, ""));
    }
  }
}

}  // namespace caravan
