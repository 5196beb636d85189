// Tokens that are found in a text before it is cut into pieces: special tokens, and those that were
// added to a model's vocabulary later.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace caravan {

struct AddedToken {
  std::string content;
  bool single_word = false;  // only where no word touches it
  bool lstrip = false;       // takes the spaces on its left
  bool rstrip = false;       // takes the spaces on its right
  bool special = false;      // a marker, no text
};

// A stretch of a text.
struct Segment {
  std::string text;
  bool may_be_token = true;  // false: plain text even where it reads like a token
};

// Finds added tokens the way transformers' slow tokenizers do, surprises included. Immutable.
class AddedTokens {
 public:
  AddedTokens() = default;
  // `tokens` with their ids; of two with equal id or content the later one counts.
  explicit AddedTokens(const std::vector<std::pair<int32_t, AddedToken>>& tokens);

  // The id of that token, -1 for none.
  int32_t Find(std::string_view content) const;
  int32_t Find(const Segment& segment) const;

  // Cuts well-formed UTF-8 around the tokens that stand in it.
  std::vector<Segment> Split(std::string_view text) const;

  // Applies lstrip, rstrip and single_word to segments of which some are tokens.
  void StripAround(std::vector<Segment>& segments) const;

  // By id: tokens of which none was replaced.
  const std::unordered_map<int32_t, AddedToken>& by_id() const { return by_id_; }

 private:
  struct Node {
    std::vector<std::pair<char32_t, int>> next;  // sorted
    bool is_end = false;
  };
  int Next(int node, char32_t character) const;  // -1: none
  void AddToTrie(std::string_view content);
  struct Search;

  std::unordered_map<int32_t, AddedToken> by_id_;
  std::unordered_map<std::string, int32_t> ids_;
  std::vector<Node> trie_;
  std::string first_bytes_;
};

}  // namespace caravan
