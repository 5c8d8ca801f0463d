#include "tests/e2e/http_client.h"

#include <utility>

#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

namespace chorale {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;

HttpReply Send(const std::string& host, http::request<http::string_body> request) {
  asio::io_context io;
  asio::ip::tcp::socket socket(io);
  const size_t colon = host.rfind(':');
  asio::connect(socket,
                asio::ip::tcp::resolver(io).resolve(host.substr(0, colon), host.substr(colon + 1)));
  request.set(http::field::host, host);
  request.set(http::field::connection, "close");
  request.prepare_payload();
  boost::system::error_code ignored;  // the server may answer and close while we still write
  http::write(socket, request, ignored);
  boost::beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(64 << 20);
  boost::system::error_code error;
  http::read(socket, buffer, parser, error);
  return {.status = static_cast<int>(parser.get().result_int()), .body = parser.get().body()};
}

}  // namespace

HttpReply HttpPost(const std::string& host, const std::string& path, const std::string& json,
                   const std::string& authorization) {
  http::request<http::string_body> request(http::verb::post, path, 11);
  request.set(http::field::content_type, "application/json");
  if (!authorization.empty()) request.set(http::field::authorization, authorization);
  request.body() = json;
  return Send(host, std::move(request));
}

HttpReply HttpGet(const std::string& host, const std::string& path) {
  return Send(host, {http::verb::get, path, 11});
}

}  // namespace chorale
