#include "api/tenant.h"

#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cache/block_key.h"

namespace chorale {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

absl::StatusOr<Tenant> TenantOfOne(std::string_view header) {
  return TenantOf(std::vector<std::string_view>{header});
}

std::string SaltOf(std::string_view header) {
  const auto tenant = TenantOfOne(header);
  EXPECT_TRUE(tenant.ok()) << tenant.status();
  return tenant.ok() ? tenant->salt : "";
}

TEST(Tenant, IsTheOneWithoutAKeyWhenThereIsNoHeader) {
  const auto tenant = TenantOf({});
  ASSERT_TRUE(tenant.ok()) << tenant.status();
  EXPECT_EQ(tenant->salt, "");
}

TEST(Tenant, HasASaltOf32DigitsThatDoesNotShowTheKey) {
  EXPECT_THAT(SaltOf("Bearer sk-1"), MatchesRegex("[0-9a-f]{32}"));
  EXPECT_EQ(SaltOf("Bearer sk-1"), SaltOf("Bearer sk-1"));
}

TEST(Tenant, DiffersByKey) {
  const std::vector<std::string> keys = {"a",    "b",     "A",      "aa",    "EMPTY",
                                         "sk-1", "sk-1=", "public", "Bearer"};
  std::set<std::string> salts = {"", std::string(KeyScope::kPublicSalt)};
  for (const std::string& key : keys) salts.insert(SaltOf("Bearer " + key));
  EXPECT_EQ(salts.size(), keys.size() + 2);  // and none is that of everybody or of nobody
}

TEST(Tenant, IsTheSameHoweverTheHeaderIsWritten) {
  const std::string salt = SaltOf("Bearer sk-1");
  for (const char* header : {"bearer sk-1", "BEARER sk-1", "Bearer  sk-1 ", " Bearer\tsk-1"}) {
    EXPECT_EQ(SaltOf(header), salt) << header;
  }
}

TEST(Tenant, TakesTheLongestKey) {
  EXPECT_THAT(SaltOf("Bearer " + std::string(kApiKeyBytesMax, 'k')), MatchesRegex("[0-9a-f]{32}"));
}

struct RefusedHeader {
  std::string header;
  const char* says;
};

TEST(Tenant, RefusesOtherHeadersWithARemedyAndWithoutRepeatingThem) {
  const RefusedHeader table[] = {
      {"", "an empty value"},
      {"   ", "an empty value"},
      {"Bearer", "an empty key"},
      {"Bearer   ", "an empty key"},
      {"Basic c2VjcmV0", "another scheme"},
      {"secret", "another scheme"},
      {"Bear secret", "another scheme"},
      {"Bearersecret", "another scheme"},
      {"Bearer:secret", "another scheme"},
      {"Bearer se cret", "a space"},
      {"Bearer secret\x01", "not printable"},
      {"Bearer secret\xff", "not printable"},
      {"Bearer secret" + std::string(1, '\0'), "not printable"},
      {"Bearer secret" + std::string(kApiKeyBytesMax, 'k'), "518 bytes"},
  };
  for (const RefusedHeader& refused : table) {
    const auto tenant = TenantOfOne(refused.header);
    ASSERT_EQ(tenant.status().code(), absl::StatusCode::kUnauthenticated) << refused.header;
    const std::string message(tenant.status().message());
    EXPECT_THAT(message, HasSubstr(refused.says)) << refused.header;
    EXPECT_THAT(message, HasSubstr("'Authorization'"));
    EXPECT_THAT(message, HasSubstr("leave the header out"));
    EXPECT_THAT(message, Not(HasSubstr("cret")));
  }
}

TEST(Tenant, RefusesTwoHeaders) {
  const auto tenant = TenantOf(std::vector<std::string_view>{"Bearer a", "Bearer a"});
  EXPECT_EQ(tenant.status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(tenant.status().message()), HasSubstr("2 such headers"));
}

TEST(Tenant, IsThatOfTheHeaderWhichAClientMakes) {
  const auto header = AuthorizationOf("sk-1");
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(SaltOf(*header), SaltOf("Bearer sk-1"));
  for (const char* key : {"", "a b", "a\n", "\xc3\xa9"}) {
    EXPECT_EQ(AuthorizationOf(key).status().code(), absl::StatusCode::kInvalidArgument) << key;
  }
}

}  // namespace
}  // namespace chorale
