// Report clicks to Clickledger from an Android or JVM app: an offline queue in a file. Shown, not run.
// A click is on disk before `add` returns and leaves it only after a final answer, which the body alone tells. It is sent
// with the same Idempotency-Key however often, so that it counts once. Call `flush` (not on the main thread; WorkManager
// fits) again after the milliseconds that it gives; `lastError` says why. Needs org.json, which Android has.
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.net.HttpURLConnection
import java.net.URL
import java.util.UUID
import java.util.logging.Logger
import kotlin.math.max
import kotlin.math.min
import kotlin.random.Random
import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject

/** The key is not valid (any more): the clicks stay in the queue; set `key` and flush again. */
class NotAuthorized(reason: String) : Exception(reason)

class ClickQueue(private val file: File, base: String, @Volatile var key: String) {
    var onRefused: (shortUrl: String, code: String, description: String) -> Unit = { shortUrl, code, description ->
        Logger.getLogger("ClickQueue").warning("click on $shortUrl refused: $code $description")
    }
    var dropped = 0
        private set
    @Volatile var lastError = "" // why the last try was no success; empty after one that was
        private set
    private val endpoint = URL(base.trimEnd('/') + "/campaignapi/resources/v3/shortlinkclicks")
    private val lock = Any()
    private val waiting = ArrayDeque<JSONObject>()
    private var failures = 0

    init {
        if (file.exists()) JSONArray(file.readText()).let { all -> for (n in 0 until all.length()) waiting.add(all.getJSONObject(n)) }
    }

    fun add(shortUrl: String, userAgent: String? = null) = synchronized(lock) {
        val body = JSONObject().put("short-url", shortUrl).put("clicked-at", System.currentTimeMillis())
        userAgent?.let { body.put("user-agent", it) }
        waiting.addLast(JSONObject().put("id", UUID.randomUUID().toString()).put("body", body))
        while (waiting.size > CLICKS_MAX) { waiting.removeFirst(); dropped++ }
        save()
    }

    /** Milliseconds until it is worth trying again; null when nothing waits. One call at a time. */
    fun flush(): Long? {
        while (true) {
            val first = synchronized(lock) { waiting.firstOrNull() } ?: return null
            val (answer, text, retryAfterMs) = send(first)
            val code = answer.optString("code")
            val description = answer.optString("description")
            lastError = text
            if (code in NOT_AUTHORIZED) throw NotAuthorized("$code $description")
            if (!answer.has("transaction-id") && code !in REFUSED) {
                // Not now, or no answer of Clickledger's at all: keep the click, behind the others, which may get through.
                synchronized(lock) { if (waiting.firstOrNull() === first) waiting.addLast(waiting.removeFirst()); save() }
                val backoff = BACKOFF_MS[min(failures++, BACKOFF_MS.size - 1)] * Random.nextDouble(0.5, 1.0)
                return max(retryAfterMs, backoff.toLong())
            }
            if (code in REFUSED) onRefused(first.getJSONObject("body").getString("short-url"), code, description)
            failures = 0
            lastError = ""
            synchronized(lock) { waiting.remove(first); save() }
        }
    }

    private fun save() {
        val next = File(file.path + ".new")
        FileOutputStream(next).use { it.write(JSONArray(waiting).toString().toByteArray()); it.fd.sync() }
        if (!next.renameTo(file)) throw IOException("cannot replace $file")
    }

    /** One attempt: the JSON object in the answer (else an empty one), how the answer reads, its Retry-After. */
    private fun send(click: JSONObject): Triple<JSONObject, String, Long> {
        val connection = endpoint.openConnection() as HttpURLConnection
        return try {
            connection.requestMethod = "POST"
            connection.connectTimeout = TIMEOUT_MS
            connection.readTimeout = TIMEOUT_MS
            connection.doOutput = true
            connection.setRequestProperty("authorization", "Bearer $key")
            connection.setRequestProperty("content-type", "application/json")
            connection.setRequestProperty("idempotency-key", click.getString("id"))
            connection.outputStream.use { it.write(click.getJSONObject("body").toString().toByteArray()) }
            val status = connection.responseCode
            val text = (if (status < 400) connection.inputStream else connection.errorStream)?.bufferedReader()?.readText().orEmpty()
            val answer = try { JSONObject(text) } catch (notJson: JSONException) { JSONObject() } // a proxy's page
            val after = connection.getHeaderField("retry-after")?.toLongOrNull() ?: 0
            Triple(answer, "HTTP $status: ${text.take(200)}", after * 1000)
        } catch (error: IOException) {
            Triple(JSONObject(), error.toString(), 0) // no connection, a time-out
        } finally {
            connection.disconnect()
        }
    }

    private companion object {
        const val CLICKS_MAX = 10_000 // kept while offline; beyond it the first goes, counted in `dropped`
        const val TIMEOUT_MS = 10_000
        val REFUSED = setOf("499", "1001", "1002", "1003", "1010") // codes that are final: this click will never be recorded
        val NOT_AUTHORIZED = setOf("430", "498") // nothing is wrong with the click
        val BACKOFF_MS = longArrayOf(1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000)
    }
}
