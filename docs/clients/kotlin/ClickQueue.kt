// Report clicks to Clickledger from an Android or JVM app: an offline queue in a file. Shown, not run.
// A click is on disk before `add` returns and leaves it only after a final answer. It is sent with the same
// Idempotency-Key however often, so that it counts once. Call `flush` (not on the main thread; WorkManager fits) again
// after the milliseconds that it gives. Needs org.json, which Android has.
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.net.HttpURLConnection
import java.net.URL
import java.util.UUID
import kotlin.math.max
import kotlin.math.min
import kotlin.random.Random
import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject

class NotAuthorized : Exception()

class ClickQueue(private val file: File, base: String, @Volatile var key: String) {
    var onRefused: (shortUrl: String, code: String, description: String) -> Unit = { _, _, _ -> }
    var dropped = 0
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
            val (status, answer, retryAfterMs) = send(first)
            if (status == 401) throw NotAuthorized()
            if (status == null || status == 429 || status >= 500) {
                val backoff = BACKOFF_MS[min(failures++, BACKOFF_MS.size - 1)] * Random.nextDouble(0.5, 1.0)
                return max(retryAfterMs, backoff.toLong())
            }
            // Anything else is final: 200 with an id, 200 with code 1010 (will never be recorded), or refused for good.
            failures = 0
            synchronized(lock) { waiting.remove(first); save() }
            if (!answer.has("transaction-id")) {
                onRefused(first.getJSONObject("body").getString("short-url"), answer.optString("code"), answer.optString("description"))
            }
        }
    }

    private fun save() {
        val next = File(file.path + ".new")
        FileOutputStream(next).use { it.write(JSONArray(waiting).toString().toByteArray()); it.fd.sync() }
        if (!next.renameTo(file)) throw IOException("cannot replace $file")
    }

    private fun send(click: JSONObject): Triple<Int?, JSONObject, Long> {
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
            val after = connection.getHeaderField("retry-after")?.toLongOrNull() ?: 0
            try {
                Triple(status, JSONObject(text), after * 1000)
            } catch (_: JSONException) {
                Triple(if (status == 200) null else status, JSONObject(), after * 1000) // a proxy's page is no answer
            }
        } catch (_: IOException) {
            Triple(null, JSONObject(), 0) // no connection, a time-out
        } finally {
            connection.disconnect()
        }
    }

    private companion object {
        const val CLICKS_MAX = 10_000 // kept while offline; beyond it the oldest goes, counted in `dropped`
        const val TIMEOUT_MS = 10_000
        val BACKOFF_MS = longArrayOf(1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000)
    }
}
