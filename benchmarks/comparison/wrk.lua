-- Cycles through bodies, and ends with one line that the benchmark reads.
-- Arguments: path and query, number of headers, each header's name and value, body files.

local requests = {}
local next_request = 0

function init(arguments)
   local headers = {}
   local position = 3
   for _ = 1, tonumber(arguments[2]) do
      headers[arguments[position]] = arguments[position + 1]
      position = position + 2
   end
   for index = position, #arguments do
      local file = assert(io.open(arguments[index], "rb"))
      requests[#requests + 1] = wrk.format("POST", arguments[1], headers, file:read("*a"))
      file:close()
   end
end

function request()
   next_request = next_request % #requests + 1
   return requests[next_request]
end

function done(summary, latency, _)
   local errors = summary.errors
   io.write(string.format(
      "result: requests=%d duration_us=%d p50_us=%d p99_us=%d bad_status=%d socket_errors=%d\n",
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
