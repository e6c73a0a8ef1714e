-- The JSON load under wrk: numbered requests, and one line of JSON as the report.
-- Arguments: file with the bytes before the number, file with those after it, first number, and how many
-- numbers there are before the first comes again (0: it never does).

local head, tail, first, number, questions

local function read(path)
   local file = assert(io.open(path, "rb"))
   local bytes = file:read("*a")
   file:close()
   return bytes
end

function init(args)
   head, tail, first = read(args[1]), read(args[2]), tonumber(args[3])
   number, questions = first, tonumber(args[4])
end

function request()
   number = number + 1
   if number == first + questions then
      number = first
   end
   return head .. string.format("%012.0f", number) .. tail
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '\n{"requests":%d,"duration_s":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,"errors":%d}\n',
      summary.requests, summary.duration / 1e6,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      errors.connect + errors.read + errors.write + errors.timeout + errors.status))
end
