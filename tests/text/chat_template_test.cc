#include "text/chat_template.h"

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace chorale {
namespace {

using ::testing::HasSubstr;
using OrderedJson = nlohmann::ordered_json;

constexpr char kGolden[] = "text/golden/";

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

absl::StatusOr<std::string> Render(std::string_view source, const OrderedJson& context) {
  auto parsed = ChatTemplate::Parse(source);
  if (!parsed.ok()) return parsed.status();
  return (*parsed)->Render(context);
}

void ExpectCase(const std::string& source, const OrderedJson& test) {
  const auto text = Render(source, test["context"]);
  const OrderedJson& expected = test["expected"];
  const std::string shown = source.substr(0, 200) + "\nwith " + test["context"].dump();
  if (expected.is_null()) {
    EXPECT_FALSE(text.ok()) << shown << "\ngives " << *text;
    return;
  }
  ASSERT_TRUE(text.ok()) << shown << "\n" << text.status();
  EXPECT_EQ(*text, expected.get<std::string>()) << shown;
}

void ExpectGolden(const std::string& name) {
  const std::string source = ReadFile(kGolden + name + ".jinja");
  for (const auto& test : OrderedJson::parse(ReadFile(kGolden + name + ".json"))) {
    ExpectCase(source, test);
  }
}

TEST(ChatTemplateTest, GivesWhatJinja2GivesForEveryConstruct) {
  for (const auto& test : OrderedJson::parse(ReadFile(std::string(kGolden) + "constructs.json"))) {
    ExpectCase(test["template"].get<std::string>(), test);
  }
}

TEST(ChatTemplateTest, RendersTheFormatOfQwen2) { ExpectGolden("qwen2"); }
TEST(ChatTemplateTest, RendersTheFormatOfLlama3) { ExpectGolden("llama3"); }
TEST(ChatTemplateTest, RendersTheFormatOfMistral) { ExpectGolden("mistral"); }

// A model's own template, from the folder of shared data. Null, and the test skips, without it.
std::unique_ptr<const ChatTemplate> SharedTemplate(const std::string& name) {
  const char* shared = std::getenv("CHORALE_SHARED_DATA");
  if (!shared) return nullptr;
  std::ifstream file(std::string(shared) + "/tokenizers/" + name + "/tokenizer_config.json");
  const auto config = OrderedJson::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object() || !config.contains("chat_template")) return nullptr;
  auto parsed = ChatTemplate::Parse(config["chat_template"].get<std::string>());
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? std::move(*parsed) : nullptr;
}

TEST(ChatTemplateTest, RendersTheTemplateThatQwen3Ships) {
  const auto qwen3 = SharedTemplate("qwen3");
  if (!qwen3) GTEST_SKIP() << "CHORALE_SHARED_DATA has no tokenizers/qwen3";
  const auto context = OrderedJson::parse(R"({
    "messages": [
      {"role": "system", "content": "Be brief."},
      {"role": "user", "content": "Hi"},
      {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello!"},
      {"role": "user", "content": "Weather?"},
      {"role": "assistant", "content": "", "tool_calls":
        [{"function": {"name": "weather", "arguments": {"place": "東京"}}}]},
      {"role": "tool", "content": "20"}],
    "tools": [{"type": "function", "function": {"name": "weather"}}],
    "add_generation_prompt": true, "enable_thinking": false})");
  const auto text = qwen3->Render(context);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, HasSubstr("<|im_start|>system\nBe brief.\n\n# Tools\n"));
  EXPECT_THAT(*text, HasSubstr("<tools>\n{\"type\": \"function\", \"function\": {\"name\": "
                               "\"weather\"}}\n</tools>"));
  EXPECT_THAT(*text, HasSubstr("<|im_start|>assistant\nHello!<|im_end|>\n"));
  EXPECT_THAT(*text, HasSubstr("<|im_start|>assistant\n<tool_call>\n{\"name\": \"weather\", "
                               "\"arguments\": {\"place\": \"東京\"}}\n</tool_call><|im_end|>\n"));
  EXPECT_TRUE(
      text->ends_with("<|im_start|>user\n<tool_response>\n20\n</tool_response><|im_end|>\n"
                      "<|im_start|>assistant\n<think>\n\n</think>\n\n"))
      << *text;
}

TEST(ChatTemplateTest, RendersTheTemplateThatMinimindShips) {
  const auto minimind = SharedTemplate("minimind");
  if (!minimind) GTEST_SKIP() << "CHORALE_SHARED_DATA has no tokenizers/minimind";
  const auto context = OrderedJson::parse(
      R"({"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": true})");
  const auto text = minimind->Render(context);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text,
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
}

struct Refusal {
  const char* source;
  const char* message;
};

TEST(ChatTemplateTest, RefusesUnknownStatementsByNameAtParse) {
  const Refusal kRefusals[] = {
      {"{% include 'x' %}", "the statement 'include'"},
      {"a\n{% autoescape true %}{% endautoescape %}", "line 2: the statement 'autoescape"},
      {"{{ self.block() }}", "the variable 'self'"},
      {"{% block x required %}{% endblock %}", "the statement 'required block'"},
  };
  for (const auto& [source, message] : kRefusals) {
    const auto parsed = ChatTemplate::Parse(source);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kUnimplemented) << source;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(message)) << source;
  }
}

// A template may name what it does not use.
TEST(ChatTemplateTest, RefusesUnknownNamesWhenTheyAreUsed) {
  const Refusal kRefusals[] = {
      {"a\n{{ x|frobnicate }}", "line 2: the filter 'frobnicate'"},
      {"{{ x is prime }}", "the test 'prime'"},
      {"{{ [1]|map('frob')|list }}", "names an unknown filter"},
      {"{{ [1]|select('frob')|list }}", "names an unknown test"},
      {"{{ 'a'.encode() }}", "the method 'encode'"},
      {"{{ 'a'|pprint }}", "the filter 'pprint'"},
  };
  for (const auto& [source, message] : kRefusals) {
    const auto text = Render(source, OrderedJson::object());
    EXPECT_EQ(text.status().code(), absl::StatusCode::kUnimplemented) << source;
    EXPECT_THAT(std::string(text.status().message()), HasSubstr(message)) << source;
    const auto unused =
        Render(std::string("{% if false %}") + source + "{% endif %}", OrderedJson::object());
    EXPECT_TRUE(unused.ok()) << unused.status();
  }
}

TEST(ChatTemplateTest, RefusesSyntaxErrorsWithTheirLine) {
  const Refusal kRefusals[] = {
      {"a\n\n{{ 1 + }}", "line 3"},
      {"{% if x %}\n", "'endif' is missing"},
      {"{% if x %}{% else %}\n", "'endif' is missing"},
      {"{% for x in y %}\n", "'endfor' is missing"},
      {"a\nb \xff", "chat template line 2: byte 4 of the file is not UTF-8"},
      {"{{ (1 }}", "unexpected '}'"},
      {"{{ 'abc", "a string is not closed"},
      {"{# abc", "a comment '{#' is not closed"},
      {"{{ a b }}", "expected '}}', found 'b'"},
      {"{% endif %}", "'endif' stands alone"},
      {"{% break %}", "outside a loop"},
      {"{{ 1e999 }}{{ 012 }}", "begins with 0"},
      {"{{ a ? b }}", "unexpected character '?'"},
      {"{{ '\\xg0' }}", "is not an escape sequence"},
  };
  for (const auto& [source, message] : kRefusals) {
    const auto parsed = ChatTemplate::Parse(source);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << source;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(message)) << source;
  }
}

TEST(ChatTemplateTest, RefusesFaultsOfTheTemplateAtRender) {
  const Refusal kRefusals[] = {
      {"\n{{ x.y }}", "line 2: 'x' is undefined"},
      {"{{ strftime_now('%d') }}", "'current_time_unix'"},
      {"{{ [1].append(2) }}", "access to attribute 'append' of 'list' object is unsafe"},
      {"{{ cycler('a') }}", "a cycler cannot be printed"},
      {"{{ 'a'.split }}", "a method cannot be printed"},
      {"{{ 10 ** 10000 }}", "more than 4096 bits"},
      {"{{ 2 ** 4000 * 2 ** 4000 }}", "more than 4096 bits"},
      {"{{ 1 / 0 }}", "division by zero"},
      {"{{ 'a' * 1000000000 }}", "longer than"},
      {"{{ [1] * 9000000000000000000 }}", "steps"},
      {"{{ range(1000000000) }}", "more than 100000 numbers"},
      {"{{ {}|tojson(indent=1000000000000) }}", "indent"},
      {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested deeper"},
      {"{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "steps"},
      {"{% for a in range(9999) %}{{ 'aaaaaaaaaa' * 1000 }}{% endfor %}", "output is longer"},
      {"{% set n = namespace(l=[]) %}{% for i in range(999) %}{% set n.l = [n.l] %}{% endfor %}",
       "nested deeper"},
      {"{% set n = namespace(s='a') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor "
       "%}",
       "longer than"},
      {"{% set n = namespace(l=[1]) %}{% for i in range(99) %}{% set n.l = [n.l, n.l] %}{% endfor "
       "%}{{ n.l == n.l + [] }}{{ n.l|string|length }}",
       "bytes"},
  };
  for (const auto& [source, message] : kRefusals) {
    const auto parsed = ChatTemplate::Parse(source);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const auto text = (*parsed)->Render(OrderedJson::object());
    EXPECT_FALSE(text.ok()) << source;
    EXPECT_THAT(std::string(text.status().message()), HasSubstr(message)) << source;
  }
}

TEST(ChatTemplateTest, RefusesTemplatesNestedTooDeep) {
  const auto repeat = [](const std::string& text, int times) {
    std::string result;
    for (int i = 0; i < times; ++i) result += text;
    return result;
  };
  for (const std::string& source :
       {"{{ " + repeat("(", 100000) + repeat(")", 100000) + " }}",
        "{{ " + repeat("not ", 100000) + "1 }}", "{{ " + repeat("-", 100000) + "1 }}",
        "{{ 1" + repeat(" + 1", 100000) + " }}", "{{ x" + repeat("[0]", 100000) + " }}",
        "{{ x" + repeat("|trim", 100000) + " }}", "{{ " + repeat("1 if 1 else ", 100000) + "1 }}",
        repeat("{% if 1 %}", 100000), repeat("{% for x in y %}", 100000),
        "{{ " + repeat("[", 100000) + repeat("]", 100000) + " }}"}) {
    const auto parsed = ChatTemplate::Parse(source);
    ASSERT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << source.substr(0, 50);
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("nested deeper than"));
  }
}

TEST(ChatTemplateTest, MentionsWhatItsCodeNames) {
  const auto mentions = [](const char* source) {
    const auto parsed = ChatTemplate::Parse(source);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    return parsed.ok() && (*parsed)->Mentions("developer");
  };
  for (const char* source :
       {"{{ m.role == 'developer' }}", "{% if r in ['system', 'developer'] %}{% endif %}",
        "{{ roles.developer }}", "{{ {'developer': 1}[r] }}", "{{ f(developer=1) }}",
        "{% for m in x if m.role != 'developer' %}{% endfor %}",
        "{% macro f(a='developer') %}{% endmacro %}", "{% set developer = 1 %}",
        "{% if a %}{% elif b %}{% else %}{{ x|default('developer') }}{% endif %}"}) {
    EXPECT_TRUE(mentions(source)) << source;
  }
  for (const char* source : {"{# no developer here #}{{ m.role }}", "for a developer {{ m.role }}",
                             "{{ 'You help a developer.' }}", "{{ developers }}"}) {
    EXPECT_FALSE(mentions(source)) << source;
  }
}

TEST(ChatTemplateTest, GivesTheMessageOfRaiseExceptionAsItIs) {
  const auto text = Render("{{ raise_exception('roles must ' ~ x) }}", {{"x", "alternate"}});
  EXPECT_EQ(text.status(), absl::InvalidArgumentError("roles must alternate"));
}

TEST(ChatTemplateTest, RefusesAContextThatIsNoObjectOrTooDeep) {
  EXPECT_EQ(Render("", OrderedJson::array()).status().code(), absl::StatusCode::kInvalidArgument);
  OrderedJson deep = 1;
  for (int i = 0; i < 1000; ++i) deep = OrderedJson::array({std::move(deep)});
  EXPECT_EQ(Render("", {{"x", std::move(deep)}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace chorale
